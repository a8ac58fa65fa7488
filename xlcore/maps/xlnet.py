"""What the parameters of XLNet are called elsewhere."""

from typing import Any

from xlcore.heads import Head
from xlcore.maps.spelling import OPTIMIZER
from xlcore.weightmap import Row, WeightMap, copied, layered, or_else, same

IN, OUT = "(N H) D -> D N H", "D (N H) -> D N H"  # heads are axes of their own there, and none is transposed
TURNED = "A B -> B A"

HF = WeightMap(
    same("mask_embedding", "transformer.mask_emb"),
    same("embedding.weight", "transformer.word_embedding.weight"),
    same("blocks.{i}.attention.query.weight", "transformer.layer.{i}.rel_attn.q", IN),
    same("blocks.{i}.attention.key.weight", "transformer.layer.{i}.rel_attn.k", IN),
    same("blocks.{i}.attention.value.weight", "transformer.layer.{i}.rel_attn.v", IN),
    same("blocks.{i}.attention.out.weight", "transformer.layer.{i}.rel_attn.o", OUT),
    same("blocks.{i}.attention.position.weight", "transformer.layer.{i}.rel_attn.r", IN),
    same("blocks.{i}.attention.position_bias", "transformer.layer.{i}.rel_attn.r_r_bias"),
    same("blocks.{i}.attention.segment_bias", "transformer.layer.{i}.rel_attn.r_s_bias"),
    same("blocks.{i}.attention.content_bias", "transformer.layer.{i}.rel_attn.r_w_bias"),
    same("blocks.{i}.attention.segment_embedding", "transformer.layer.{i}.rel_attn.seg_embed"),
    same("blocks.{i}.attention_norm.weight", "transformer.layer.{i}.rel_attn.layer_norm.weight"),
    same("blocks.{i}.attention_norm.bias", "transformer.layer.{i}.rel_attn.layer_norm.bias"),
    same("blocks.{i}.feed_forward_norm.weight", "transformer.layer.{i}.ff.layer_norm.weight"),
    same("blocks.{i}.feed_forward_norm.bias", "transformer.layer.{i}.ff.layer_norm.bias"),
    same("blocks.{i}.feed_forward.inner.weight", "transformer.layer.{i}.ff.layer_1.weight"),
    same("blocks.{i}.feed_forward.inner.bias", "transformer.layer.{i}.ff.layer_1.bias"),
    same("blocks.{i}.feed_forward.outer.weight", "transformer.layer.{i}.ff.layer_2.weight"),
    same("blocks.{i}.feed_forward.outer.bias", "transformer.layer.{i}.ff.layer_2.bias"),
    same("lm_head.weight", "lm_loss.weight"),
    same("lm_head.bias", "lm_loss.bias"),
    same("sequence_summary.projection.weight", "sequence_summary.summary.weight"),
    same("sequence_summary.projection.bias", "sequence_summary.summary.bias"),
    same("score.weight", "logits_proj.weight"),
    same("score.bias", "logits_proj.bias"),
    same("classifier.weight", "classifier.weight"),
    same("classifier.bias", "classifier.bias"),
    same("spans.weight", "qa_outputs.weight"),
    same("spans.bias", "qa_outputs.bias"),
    same("start.score.weight", "start_logits.dense.weight"),
    same("start.score.bias", "start_logits.dense.bias"),
    same("end.inner.weight", "end_logits.dense_0.weight"),
    same("end.inner.bias", "end_logits.dense_0.bias"),
    same("end.norm.weight", "end_logits.LayerNorm.weight"),
    same("end.norm.bias", "end_logits.LayerNorm.bias"),
    same("end.score.weight", "end_logits.dense_1.weight"),
    same("end.score.bias", "end_logits.dense_1.bias"),
    same("answer.inner.weight", "answer_class.dense_0.weight"),
    same("answer.inner.bias", "answer_class.dense_0.bias"),
    same("answer.score.weight", "answer_class.dense_1.weight"),
    prefix="transformer.",
)


def _in_keras(row: Row) -> Row:
    """Spell a line of HuggingFace's PyTorch as its TensorFlow does: kernels are [in, out], norms gamma and beta."""
    path = row.theirs.replace(".{i}", "_#_{i}").replace(".", "/").replace("_#_", "_._")
    owner, _, last = path.rpartition("/")
    if owner.lower().endswith("norm"):
        return same(row.parts[0], f"{owner}/{'gamma' if last == 'weight' else 'beta'}")
    if last == "weight" and row.parts[0] not in ("embedding.weight", "lm_head.weight"):
        return same(row.parts[0], f"{owner}/kernel", TURNED)
    return same(row.parts[0], path, row.layout)


# HuggingFace's TensorFlow classes, which there are for every head but the one of answers by beam search.
HF_TF = WeightMap(*(_in_keras(row) for row in HF.rows if row.parts[0].split(".")[0] not in ("start", "end", "answer")))

# ------------------------------------------------------------------------------------------- the authors' TensorFlow

BEAM = (
    same("start.score.weight", "start_logits/dense/kernel", TURNED),
    same("start.score.bias", "start_logits/dense/bias"),
    same("end.inner.weight", "end_logits/dense_0/kernel", TURNED),
    same("end.inner.bias", "end_logits/dense_0/bias"),
    same("end.norm.weight", "end_logits/LayerNorm/gamma"),
    same("end.norm.bias", "end_logits/LayerNorm/beta"),
    same("end.score.weight", "end_logits/dense_1/kernel", TURNED),
    same("end.score.bias", "end_logits/dense_1/bias"),
    same("answer.inner.weight", "answer_class/dense_0/kernel", TURNED),
    same("answer.inner.bias", "answer_class/dense_0/bias"),
    same("answer.score.weight", "answer_class/dense_1/kernel", TURNED),
)
CHOICE = (
    same("score.weight", "logits/dense/kernel", TURNED),
    same("score.bias", "logits/dense/bias"),
)
TASK = (
    same("score.weight", "model/task/logit/kernel", TURNED),
    same("score.bias", "model/task/logit/bias"),
)
LAYERS = {"content_bias": "r_w_bias", "position_bias": "r_r_bias", "segment_bias": "r_s_bias"}

TF1 = WeightMap(
    or_else("zeros", same("mask_embedding", "model/transformer/mask_emb/mask_emb")),
    same("embedding.weight", "model/transformer/word_embedding/lookup_table"),
    same("blocks.{i}.attention.query.weight", "model/transformer/layer_{i}/rel_attn/q/kernel", IN),
    same("blocks.{i}.attention.key.weight", "model/transformer/layer_{i}/rel_attn/k/kernel", IN),
    same("blocks.{i}.attention.value.weight", "model/transformer/layer_{i}/rel_attn/v/kernel", IN),
    same("blocks.{i}.attention.out.weight", "model/transformer/layer_{i}/rel_attn/o/kernel", OUT),
    same("blocks.{i}.attention.position.weight", "model/transformer/layer_{i}/rel_attn/r/kernel", IN),
    layered("blocks.{i}.attention.content_bias", "model/transformer/r_w_bias"),
    layered("blocks.{i}.attention.position_bias", "model/transformer/r_r_bias"),
    or_else("zeros", layered("blocks.{i}.attention.segment_bias", "model/transformer/r_s_bias")),
    or_else("zeros", layered("blocks.{i}.attention.segment_embedding", "model/transformer/seg_embed")),
    same("blocks.{i}.attention_norm.weight", "model/transformer/layer_{i}/rel_attn/LayerNorm/gamma"),
    same("blocks.{i}.attention_norm.bias", "model/transformer/layer_{i}/rel_attn/LayerNorm/beta"),
    same("blocks.{i}.feed_forward_norm.weight", "model/transformer/layer_{i}/ff/LayerNorm/gamma"),
    same("blocks.{i}.feed_forward_norm.bias", "model/transformer/layer_{i}/ff/LayerNorm/beta"),
    same("blocks.{i}.feed_forward.inner.weight", "model/transformer/layer_{i}/ff/layer_1/kernel", TURNED),
    same("blocks.{i}.feed_forward.inner.bias", "model/transformer/layer_{i}/ff/layer_1/bias"),
    same("blocks.{i}.feed_forward.outer.weight", "model/transformer/layer_{i}/ff/layer_2/kernel", TURNED),
    same("blocks.{i}.feed_forward.outer.bias", "model/transformer/layer_{i}/ff/layer_2/bias"),
    same("lm_head.weight", "model/lm_loss/weight"),
    same("lm_head.bias", "model/lm_loss/bias"),
    same("sequence_summary.projection.weight", "model/sequnece_summary/summary/kernel", TURNED),  # sic
    same("sequence_summary.projection.bias", "model/sequnece_summary/summary/bias"),
    *TASK,
    *CHOICE,
    *BEAM,
    ignored=OPTIMIZER,
)


def tf1(config: Any, head: Head) -> WeightMap:
    """Return the map for one model: choices are scored under a name of their own, and layers may share their biases."""
    rows = list(CHOICE) if head.kind == "multiple_choice" else []
    if not config.untie_r:
        shared = [copied(f"blocks.{{i}}.attention.{ours}", f"model/transformer/{it}") for ours, it in LAYERS.items()]
        rows += [*shared[:2], or_else("zeros", shared[2])]
    given = {row.theirs for row in rows}
    return WeightMap(*rows, *(row for row in TF1.rows if row.theirs not in given), ignored=TF1.ignored)
