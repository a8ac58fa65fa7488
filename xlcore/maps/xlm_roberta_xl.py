"""What the parameters of XLM-RoBERTa-XL are called elsewhere."""

from collections.abc import Iterable
from typing import Any

from xlcore.heads import Head
from xlcore.maps.spelling import unwrapped
from xlcore.origin import bare_body
from xlcore.weightmap import Row, WeightMap, same

TURNED = "A B -> B A"

TABLES = {
    "embedding": "roberta.embeddings.word_embeddings",
    "embedding_of_positions": "roberta.embeddings.position_embeddings",
    "embedding_of_types": "roberta.embeddings.token_type_embeddings",
    "blocks.{i}.attention.distances": "roberta.encoder.layer.{i}.attention.self.distance_embedding",
    "lm_head": "lm_head.decoder",
}
NORMS = {
    "blocks.{i}.attention_norm": "roberta.encoder.layer.{i}.attention.self_attn_layer_norm",
    "blocks.{i}.cross_attention_norm": "roberta.encoder.layer.{i}.crossattention.self_attn_layer_norm",
    "blocks.{i}.feed_forward_norm": "roberta.encoder.layer.{i}.LayerNorm",
    "final_norm": "roberta.encoder.LayerNorm",
    "transform.norm": "lm_head.layer_norm",
}
MAPS = {
    f"blocks.{{i}}.{ours}.{part}": f"roberta.encoder.layer.{{i}}.{theirs}.{its}"
    for ours, theirs in (("attention", "attention"), ("cross_attention", "crossattention"))
    for part, its in (("query", "self.query"), ("key", "self.key"), ("value", "self.value"), ("out", "output.dense"))
} | {
    "blocks.{i}.feed_forward.inner": "roberta.encoder.layer.{i}.intermediate.dense",
    "blocks.{i}.feed_forward.outer": "roberta.encoder.layer.{i}.output.dense",
    "pooler": "roberta.pooler.dense",
    "transform.inner": "lm_head.dense",
    "classifier.inner": "classifier.dense",
    "classifier.score": "classifier.out_proj",
    "classifier": "classifier",
    "spans": "qa_outputs",
}  # fmt: skip
# The bias of the scores has two names.
BIASES = {"lm_head.bias": "lm_head.bias", "lm_head.decoder_bias": "lm_head.decoder.bias"}


def _both(ours: str, theirs: str) -> tuple[Row, Row]:
    """Say that a map or a norm of ours is one of theirs: its weight, and its bias."""
    return same(f"{ours}.weight", f"{theirs}.weight"), same(f"{ours}.bias", f"{theirs}.bias")


HF = WeightMap(
    *(same(f"{ours}.weight", f"{theirs}.weight") for ours, theirs in TABLES.items()),
    *(row for ours, theirs in (NORMS | MAPS).items() for row in _both(ours, theirs)),
    *(same(ours, theirs) for ours, theirs in BIASES.items()),
    prefix="roberta.",
    ignored={
        r"roberta\.embeddings\.position_ids": "the numbers 0, 1, ... of the positions",
        r"roberta\.embeddings\.token_type_ids": "zeros, the kind of segment that counts where none is given",
    },
)


def hf(config: Any, head: Head) -> WeightMap:
    """Return the map for one model."""
    return HF


FIRST, SECOND = BIASES.values()


def plain_hf(names: Iterable[str]) -> dict[str, str]:
    """Return names as the map has them; a bias that stands there under its second name only has the first."""
    found = unwrapped(names)
    alone = FIRST not in found.values()
    return {name: FIRST if alone and plain == SECOND else plain for name, plain in found.items()}


def written_hf(names: Iterable[str], config: Any, head: Head) -> dict[str, str]:
    """Return names as files have them; where nothing is tied transformers 5 reads the second name of the bias only."""
    found = bare_body("roberta.")(names, config, head)
    second = not config.tie_word_embeddings and SECOND not in found
    return {name: SECOND if second and name == FIRST else plain for name, plain in found.items()}


# ------------------------------------------------------------------------------------------ HuggingFace's TensorFlow

# There never was a TensorFlow class of this family; these are the names that TFXLMRobertaForMaskedLM and its like use.
TABLE = "roberta/embeddings/word_embeddings/weight"


def _path(theirs: str) -> str:
    """Spell the name of a layer of HuggingFace's PyTorch as its TensorFlow does."""
    return theirs.replace(".layer.{i}", ".layer_#_{i}").replace(".", "/").replace("_#_", "_._")


def _table(ours: str, theirs: str) -> Row:
    """Say where a table of embeddings lies: that of words is no embedding layer of Keras."""
    path = _path(theirs)
    return same(f"{ours}.weight", TABLE if f"{path}/weight" == TABLE else f"{path}/embeddings")


HF_TF = WeightMap(
    *(_table(ours, theirs) for ours, theirs in TABLES.items() if ours != "lm_head"),
    *(same(f"{ours}.{last}", f"{_path(theirs)}/{its}") for ours, theirs in NORMS.items()
      for last, its in (("weight", "gamma"), ("bias", "beta"))),
    *(same(f"{ours}.weight", f"{_path(theirs)}/kernel", TURNED) for ours, theirs in MAPS.items()),
    *(same(f"{ours}.bias", f"{_path(theirs)}/bias") for ours, theirs in MAPS.items()),
    same("lm_head.bias", "lm_head/bias"),
)  # fmt: skip
