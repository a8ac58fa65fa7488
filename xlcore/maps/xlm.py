"""What the parameters of XLM are called elsewhere."""

from dataclasses import replace
from typing import Any

from xlcore.heads import Head
from xlcore.weightmap import Row, WeightMap, same, stacked

TURNED = "A B -> B A"
MOST_CLUSTERS = 16

BLOCKS = {
    "attention.query": "attentions.{i}.q_lin",
    "attention.key": "attentions.{i}.k_lin",
    "attention.value": "attentions.{i}.v_lin",
    "attention.out": "attentions.{i}.out_lin",
    "attention_norm": "layer_norm1.{i}",
    "cross_attention.query": "encoder_attn.{i}.q_lin",  # only the authors' decoders have these
    "cross_attention.key": "encoder_attn.{i}.k_lin",
    "cross_attention.value": "encoder_attn.{i}.v_lin",
    "cross_attention.out": "encoder_attn.{i}.out_lin",
    "cross_attention_norm": "layer_norm15.{i}",
    "feed_forward.inner": "ffns.{i}.lin1",
    "feed_forward.outer": "ffns.{i}.lin2",
    "feed_forward_norm": "layer_norm2.{i}",
}
HEADS = {
    "sequence_summary.projection": "sequence_summary.summary",
    "score": "logits_proj",
    "classifier": "classifier",
    "spans": "qa_outputs",
    "start.score": "qa_outputs.start_logits.dense",
    "end.inner": "qa_outputs.end_logits.dense_0",
    "end.norm": "qa_outputs.end_logits.LayerNorm",
    "end.score": "qa_outputs.end_logits.dense_1",
    "answer.inner": "qa_outputs.answer_class.dense_0",
}


def _both(ours: str, theirs: str) -> tuple[Row, Row]:
    """Say that a map or a norm of ours is one of theirs: its weight, and its bias."""
    return same(f"{ours}.weight", f"{theirs}.weight"), same(f"{ours}.bias", f"{theirs}.bias")


def _tail(number: int) -> tuple[Row, Row]:
    """Say where a cluster of the adaptive softmax lies; ours count the frequent words as the first bin."""
    theirs = f"pred_layer.proj.tail.{number - 1}"
    inner = same(f"crit.bins.{number}.projection", f"{theirs}.0.weight", TURNED)
    return inner, same(f"crit.bins.{number}.weight", f"{theirs}.1.weight")


HF = WeightMap(
    same("embedding.weight", "transformer.embeddings.weight"),
    same("embedding_of_positions.weight", "transformer.position_embeddings.weight"),
    same("embedding_of_languages.weight", "transformer.lang_embeddings.weight"),
    *_both("embedding_norm", "transformer.layer_norm_emb"),
    *(row for ours, it in BLOCKS.items() for row in _both(f"blocks.{{i}}.{ours}", f"transformer.{it}")),
    *_both("lm_head", "pred_layer.proj"),
    stacked("crit.{part}.weight", "bins.0 cluster", "pred_layer.proj.head.weight"),
    stacked("crit.{part}.bias", "bins.0 cluster", "pred_layer.proj.head.bias"),
    *(row for number in range(1, MOST_CLUSTERS + 1) for row in _tail(number)),
    *(row for ours, it in HEADS.items() for row in _both(ours, it)),
    same("answer.score.weight", "qa_outputs.answer_class.dense_1.weight"),
    prefix="transformer.",
    ignored={r"transformer\.position_ids": "the numbers 0, 1, ... of the positions"},
)
# Files of transformers, and of the authors, may hold the table to which they would tie an adaptive softmax.
_STRAY = {r"(decoder\.)?pred_layer\.proj\.weight": "of no use to an adaptive softmax"}


def hf(config: Any, head: Head) -> WeightMap:
    """Return the map for one model."""
    return HF.but(ignored=_STRAY) if config.asm else HF


# ------------------------------------------------------------------------------------------ HuggingFace's TensorFlow

TABLE, COPY = "transformer/embeddings/weight", "pred_layer_._proj/weight"


def _in_keras(row: Row) -> Row:
    """Spell a line of HuggingFace's PyTorch as its TensorFlow does: kernels are [in, out], norms gamma and beta."""
    path = row.theirs.replace("pred_layer.", "pred_layer_#_").replace(".{i}", "_#_{i}")
    path = path.replace(".", "/").replace("_#_", "_._")
    owner, _, last = path.rpartition("/")
    if "layer_norm" in owner:
        return same(row.parts[0], f"{owner}/{'gamma' if last == 'weight' else 'beta'}")
    if owner.endswith("_embeddings"):
        return same(row.parts[0], f"{owner}/embeddings")
    if last == "weight" and path not in (TABLE, COPY):
        return same(row.parts[0], f"{owner}/kernel", TURNED)
    return same(row.parts[0], path)


# What its TensorFlow classes have no tensors for: answers by beam search, adaptive softmax, decoders.
_NOT_THERE = ("start.", "end.", "answer.", "crit.", "blocks.{i}.cross_attention")
HF_TF = WeightMap(*(_in_keras(row) for row in HF.rows if not row.parts[0].startswith(_NOT_THERE)))

# --------------------------------------------------------------------------------------------------- the authors' own

# Of a translation model's two halves one is a model here, and the other is passed over.
PTH = HF.but(ignored={r"decoder\..+": "the decoder's; is_encoder=False takes the decoder"})
PTH_DECODER = WeightMap(
    *(replace(row, theirs=f"decoder.{row.theirs}") for row in HF.rows),
    prefix="decoder.transformer.",
    ignored={
        r"(transformer|pred_layer)\..+": "the encoder's; is_encoder=True takes the encoder",
        r"decoder\.transformer\.position_ids": HF.ignored[r"transformer\.position_ids"],
    },
)


def pth(config: Any, head: Head) -> WeightMap:
    """Return the map for one half of a translation model, or for the one model that there is."""
    half = PTH if config.is_encoder else PTH_DECODER
    return half.but(ignored=_STRAY) if config.asm else half
