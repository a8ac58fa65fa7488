"""Where checkpoints of XLM come from, and how a config follows from what they tell."""

import re
from collections.abc import Iterable
from typing import Any

from xlcore.config import Config
from xlcore.errors import ConfigError
from xlcore.families.xlm import XLMConfig, ties
from xlcore.heads import Head
from xlcore.maps.spelling import unwrapped
from xlcore.maps.xlm import HF, MOST_CLUSTERS
from xlcore.origin import Derived, Origin, Seen, bare_body, canonical_shapes, numbered, settle
from xlcore.weightmap import WeightMap

UNTOLD = {key: XLMConfig.fields[key].default for key in ("n_heads", "gelu_activation", "causal", "layer_norm_eps")}
KINDS = {
    "start": "XLMForQuestionAnswering",
    "spans": "XLMForQuestionAnsweringSimple",
    "classifier": "XLMForTokenClassification",
    "score": "XLMForMultipleChoice",
    "sequence_summary": "XLMForSequenceClassification",
    "lm_head": "XLMWithLMHeadModel",
    "crit": "XLMWithLMHeadModel",
}


def sizes_of(names: WeightMap, seen: Seen) -> dict[str, Any]:
    """Return what the shapes tell."""
    found = canonical_shapes(names, seen.shapes)
    layers = numbered(found, "blocks.", ".attention_norm.weight")
    if "embedding.weight" not in found or "embedding_of_positions.weight" not in found:
        raise ConfigError(f"{seen.where}: a config must be there or follow from the embeddings, got neither")
    keys: dict[str, Any] = {
        "vocab_size": found["embedding.weight"][0],
        "emb_dim": found["embedding.weight"][1],
        "n_layers": len(layers),
        "max_position_embeddings": found["embedding_of_positions.weight"][0],
    }
    if languages := found.get("embedding_of_languages.weight"):
        keys["n_langs"] = languages[0]
    if "blocks.0.cross_attention_norm.weight" in found:
        keys |= {"is_encoder": False, "causal": True}
    if labels := found.get("sequence_summary.projection.bias", found.get("classifier.bias", ())):
        keys["num_labels"] = labels[0]
    if (tails := numbered(found, "crit.bins.", ".projection")) and "crit.bins.0.weight" in found:
        keys |= _clusters([found[f"crit.bins.{number}.weight"] for number in tails], keys["vocab_size"])
    return keys


def _clusters(tails: list[tuple[int, ...]], size: int) -> dict[str, Any]:
    """Return the borders of the clusters of an adaptive softmax, from the last one down; not what divides widths."""
    borders: list[int] = []
    for rows, _ in reversed(tails):
        size -= rows
        borders = [size, *borders]
    return {"asm": True, "asm_cutoffs": borders}


def head_of(names: WeightMap, seen: Seen) -> str:
    """Return the class of the model that the tensors make."""
    parts = {name.split(".")[0] for name in canonical_shapes(names, seen.shapes)}
    return next((name for part, name in KINDS.items() if part in parts), "XLMModel")


def derive_hf(seen: Seen) -> Derived:
    """Derive the config of a file that lost its config.json."""
    return settle(seen, UNTOLD, ("the shapes of the tensors", sizes_of(HF, seen)))


# ------------------------------------------------------------------------------------------------------- the origins


def untied(config: XLMConfig, names: Iterable[str]) -> XLMConfig:
    """Return the config under which the scores of words have a table of their own."""
    return config.copy(tie_word_embeddings=False)


def check_hf(config: Any, head: Head) -> None:
    """Refuse more clusters than the map has lines for."""
    if config.asm and len(config.asm_cutoffs) > MOST_CLUSTERS:
        raise ConfigError(f"hf: asm_cutoffs must be at most {MOST_CLUSTERS}, got {len(config.asm_cutoffs)}")


def _copies(config: Config, head: Head) -> list[str]:
    return list(ties(config))  # type: ignore[arg-type]  # an XLMConfig


ORIGINS = (
    Origin(
        "hf", "xlm", ("safetensors", "torch"), HF, lambda config, head: HF,
        recognise=lambda seen: any(re.match(r"(transformer\.)?attentions\.\d+\.q_lin\.", name) for name in seen.shapes),
        derive=derive_hf,
        head=lambda seen, config: head_of(HF, seen),
        plain=unwrapped,
        written=bare_body("transformer."),
        check=check_hf,
        copies=_copies,
        untied=untied,
        carried=("vocab.json", "merges.txt"),
    ),
)  # fmt: skip
