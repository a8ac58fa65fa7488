"""What the parameters of XLM-RoBERTa-XL are called in fairseq, by its authors, and how parts of a model are split."""

import re
from typing import Any

from xlcore.errors import ConfigError
from xlcore.inert import placeholder
from xlcore.origin import Keys, require
from xlcore.weightmap import Row, WeightMap, or_else, same, stacked

_BODY = "encoder.sentence_encoder"
VERSION = f"{_BODY}.version"
_LAYER = f"{_BODY}.layers.{{i}}"
_PARTS = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}


def _both(ours: str, theirs: str) -> tuple[Row, Row]:
    """Say that a map or a norm of ours is one of theirs: its weight, and its bias."""
    return same(f"{ours}.weight", f"{theirs}.weight"), same(f"{ours}.bias", f"{theirs}.bias")


def fairseq(head: str) -> WeightMap:
    """Return the map for files whose classification head has that name."""
    own = re.escape(head)
    return WeightMap(
        same("embedding.weight", f"{_BODY}.embed_tokens.weight"),
        same("embedding_of_positions.weight", f"{_BODY}.embed_positions.weight"),
        or_else("zeros", same("embedding_of_types.weight", f"{_BODY}.segment_embeddings.weight")),
        *_both("blocks.{i}.attention_norm", f"{_LAYER}.self_attn_layer_norm"),
        *(row for part, its in _PARTS.items() for row in _both(f"blocks.{{i}}.attention.{part}",
                                                               f"{_LAYER}.self_attn.{its}")),
        *_both("blocks.{i}.attention.out", f"{_LAYER}.self_attn.out_proj"),
        *_both("blocks.{i}.feed_forward_norm", f"{_LAYER}.final_layer_norm"),
        *_both("blocks.{i}.feed_forward.inner", f"{_LAYER}.fc1"),
        *_both("blocks.{i}.feed_forward.outer", f"{_LAYER}.fc2"),
        *_both("final_norm", f"{_BODY}.layer_norm"),
        *_both("transform.inner", "encoder.lm_head.dense"),
        *_both("transform.norm", "encoder.lm_head.layer_norm"),
        *_both("lm_head", "encoder.lm_head"),
        *_both("classifier.inner", f"classification_heads.{head}.dense"),
        *_both("classifier.score", f"classification_heads.{head}.out_proj"),
        ignored={
            re.escape(VERSION): "the version of the layout",
            rf"{re.escape(_BODY)}\.embed_positions\._float_tensor": "a buffer without a number in it",
            rf"classification_heads\.(?!{own}\.).+": "another classification head; see the key finetuning_task",
        },
    )  # fmt: skip


def fused(head: str) -> WeightMap:
    """Return the map for files in which query, key and value are one map."""
    parts = "query key value"
    return fairseq(head).but(
        *(
            stacked(f"blocks.{{i}}.attention.{{part}}.{last}", parts, f"{_LAYER}.self_attn.in_proj_{last}")
            for last in ("weight", "bias")
        )
    )


# Which tensors of a model that was trained in parts are cut, and along which axis; every part has all of the others.
CUT: dict[str, int] = {
    r"(.+\.)?(embed_tokens|lm_head)\.weight": 0,
    r".+\.self_attn\.[qkv]_proj\.(weight|bias)": 0,
    r".+\.self_attn\.out_proj\.weight": 1,
    r".+\.fc1\.(weight|bias)": 0,
    r".+\.fc2\.weight": 1,
    r"(.+\.)?lm_head\.dense\.(weight|bias)": 0,
    r"(.+\.)?classification_heads\.[^.]+\.dense\.(weight|bias)": 0,
}
# The vocabulary is filled up to a multiple of so many words a part.
_WORDS = 8


def axis_of(name: str) -> int | None:
    """Return the axis along which a tensor is cut; none for one that every part has whole."""
    return next((axis for pattern, axis in CUT.items() if re.fullmatch(pattern, name)), None)


def in_parts(config: Any, extras: Keys, count: int) -> dict[str, Any]:
    """Return what each of so many parts of a model holds beside its tensors, given what a whole one does.

    Raises:
        ConfigError: for a model that fairseq cannot run in so many parts.
    """
    where = "torch-original in parts"
    require(where, config, tie_word_embeddings=True)
    if config.num_attention_heads % count:
        what = f"num_attention_heads must be a multiple of the number of parts, {count}"
        raise ConfigError(f"{where}: {what}, got {config.num_attention_heads}; choose another number")
    if config.vocab_size % (unit := _WORDS * count):
        what = f"vocab_size must be a multiple of {unit}, {_WORDS} for each of {count} parts, got {config.vocab_size}"
        more = config.vocab_size + -config.vocab_size % unit
        raise ConfigError(f"{where}: {what}; resize_token_embeddings({more}) makes it one")
    own = {"arch": "model_parallel_roberta", "model_parallel_size": count, "no_final_layer_norm": False}
    return {**extras, "args": placeholder("argparse", "Namespace", extras["args"].attributes | own)}
