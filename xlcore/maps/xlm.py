"""What the parameters of XLM are called elsewhere."""

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
