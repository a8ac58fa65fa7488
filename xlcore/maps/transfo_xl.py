"""What the parameters of Transformer-XL are called elsewhere."""

from itertools import pairwise
from typing import Any

from xlcore.heads import Head
from xlcore.maps.spelling import OPTIMIZER
from xlcore.weightmap import Row, WeightMap, cut, layered, or_else, same, stacked

TURNED = "A B -> B A"
QKV = "query key value"

HF = WeightMap(
    same("embedding.bins.{i}.weight", "transformer.word_emb.emb_layers.{i}.weight"),
    same("embedding.bins.{i}.projection", "transformer.word_emb.emb_projs.{i}"),
    same("content_bias", "transformer.r_w_bias"),
    same("position_bias", "transformer.r_r_bias"),
    stacked("blocks.{i}.attention.{part}.weight", QKV, "transformer.layers.{i}.dec_attn.qkv_net.weight"),
    same("blocks.{i}.attention.position.weight", "transformer.layers.{i}.dec_attn.r_net.weight"),
    same("blocks.{i}.attention.out.weight", "transformer.layers.{i}.dec_attn.o_net.weight"),
    same("blocks.{i}.attention.content_bias", "transformer.layers.{i}.dec_attn.r_w_bias"),
    same("blocks.{i}.attention.position_bias", "transformer.layers.{i}.dec_attn.r_r_bias"),
    same("blocks.{i}.attention_norm.weight", "transformer.layers.{i}.dec_attn.layer_norm.weight"),
    same("blocks.{i}.attention_norm.bias", "transformer.layers.{i}.dec_attn.layer_norm.bias"),
    same("blocks.{i}.feed_forward.inner.weight", "transformer.layers.{i}.pos_ff.CoreNet.0.weight"),
    same("blocks.{i}.feed_forward.inner.bias", "transformer.layers.{i}.pos_ff.CoreNet.0.bias"),
    same("blocks.{i}.feed_forward.outer.weight", "transformer.layers.{i}.pos_ff.CoreNet.3.weight"),
    same("blocks.{i}.feed_forward.outer.bias", "transformer.layers.{i}.pos_ff.CoreNet.3.bias"),
    same("blocks.{i}.feed_forward_norm.weight", "transformer.layers.{i}.pos_ff.layer_norm.weight"),
    same("blocks.{i}.feed_forward_norm.bias", "transformer.layers.{i}.pos_ff.layer_norm.bias"),
    same("crit.cluster.weight", "crit.cluster_weight"),
    same("crit.cluster.bias", "crit.cluster_bias"),
    same("crit.bins.{i}.weight", "crit.out_layers.{i}.weight"),
    same("crit.bins.{i}.bias", "crit.out_layers.{i}.bias"),
    same("crit.bins.{i}.projection", "crit.out_projs.{i}"),
    same("score.weight", "score.weight"),
    prefix="transformer.",
    ignored={r"transformer\.pos_emb\.inv_freq": "a buffer, computed anew"},
)

# HuggingFace's TensorFlow classes: the same tensors as paths of variables, kernels [in, out].
HF_TF = WeightMap(
    same("embedding.bins.{i}.weight", "transformer/word_emb/emb_layers_._{i}/embeddings"),
    same("embedding.bins.{i}.projection", "transformer/word_emb/emb_projs_._{i}", TURNED),
    stacked("blocks.{i}.attention.{part}.weight", QKV, "transformer/layers_._{i}/dec_attn/qkv_net/kernel", TURNED),
    same("blocks.{i}.attention.position.weight", "transformer/layers_._{i}/dec_attn/r_net/kernel", TURNED),
    same("blocks.{i}.attention.out.weight", "transformer/layers_._{i}/dec_attn/o_net/kernel", TURNED),
    same("blocks.{i}.attention.content_bias", "transformer/layers_._{i}/dec_attn/r_w_bias"),
    same("blocks.{i}.attention.position_bias", "transformer/layers_._{i}/dec_attn/r_r_bias"),
    same("blocks.{i}.attention_norm.weight", "transformer/layers_._{i}/dec_attn/layer_norm/gamma"),
    same("blocks.{i}.attention_norm.bias", "transformer/layers_._{i}/dec_attn/layer_norm/beta"),
    same("blocks.{i}.feed_forward.inner.weight", "transformer/layers_._{i}/pos_ff/CoreNet_._0/kernel", TURNED),
    same("blocks.{i}.feed_forward.inner.bias", "transformer/layers_._{i}/pos_ff/CoreNet_._0/bias"),
    same("blocks.{i}.feed_forward.outer.weight", "transformer/layers_._{i}/pos_ff/CoreNet_._3/kernel", TURNED),
    same("blocks.{i}.feed_forward.outer.bias", "transformer/layers_._{i}/pos_ff/CoreNet_._3/bias"),
    same("blocks.{i}.feed_forward_norm.weight", "transformer/layers_._{i}/pos_ff/layer_norm/gamma"),
    same("blocks.{i}.feed_forward_norm.bias", "transformer/layers_._{i}/pos_ff/layer_norm/beta"),
    same("crit.cluster.weight", "crit/cluster_weight"),
    same("crit.cluster.bias", "crit/cluster_bias"),
    same("crit.bins.{i}.weight", "crit/out_layers_._{i}_._weight"),
    same("crit.bins.{i}.bias", "crit/out_layers_._{i}_._bias"),
    same("crit.bins.{i}.projection", "crit/out_projs_._{i}", TURNED),
    same("score.weight", "score/kernel", TURNED),
)

# The authors' PyTorch: HuggingFace's names without a prefix; the rows of the clusters stand the other way round.
TORCH = HF.but(
    same("crit.cluster.weight", "crit.cluster_weight", "A B -> -A B"),
    same("crit.cluster.bias", "crit.cluster_bias", "A -> -A"),
)


# ------------------------------------------------------------------------------------------- the authors' TensorFlow

TF1 = WeightMap(
    layered("blocks.{i}.attention.content_bias", "transformer/r_w_bias"),
    layered("blocks.{i}.attention.position_bias", "transformer/r_r_bias"),
    stacked("blocks.{i}.attention.{part}.weight", QKV, "transformer/layer_{i}/rel_attn/qkv/kernel", TURNED),
    same("blocks.{i}.attention.position.weight", "transformer/layer_{i}/rel_attn/r/kernel", TURNED),
    same("blocks.{i}.attention.out.weight", "transformer/layer_{i}/rel_attn/o/kernel", TURNED),
    same("blocks.{i}.attention_norm.weight", "transformer/layer_{i}/rel_attn/LayerNorm/gamma"),
    same("blocks.{i}.attention_norm.bias", "transformer/layer_{i}/rel_attn/LayerNorm/beta"),
    same("blocks.{i}.feed_forward.inner.weight", "transformer/layer_{i}/ff/layer_1/kernel", TURNED),
    same("blocks.{i}.feed_forward.inner.bias", "transformer/layer_{i}/ff/layer_1/bias"),
    same("blocks.{i}.feed_forward.outer.weight", "transformer/layer_{i}/ff/layer_2/kernel", TURNED),
    same("blocks.{i}.feed_forward.outer.bias", "transformer/layer_{i}/ff/layer_2/bias"),
    same("blocks.{i}.feed_forward_norm.weight", "transformer/layer_{i}/ff/LayerNorm/gamma"),
    same("blocks.{i}.feed_forward_norm.bias", "transformer/layer_{i}/ff/LayerNorm/beta"),
    same("embedding.bins.{i}.weight", "transformer/adaptive_embed/cutoff_{i}/lookup_table"),
    or_else(
        "identity",
        same("embedding.bins.{i}.projection", "transformer/adaptive_embed/cutoff_{i}/proj_W", TURNED),
    ),
    same("crit.cluster.weight", "transformer/adaptive_softmax/cutoff_0/cluster_W"),
    same("crit.cluster.bias", "transformer/adaptive_softmax/cutoff_0/cluster_b"),
    same("crit.bins.{i}.bias", "transformer/adaptive_softmax/cutoff_{i}/b"),
    or_else("identity", same("crit.bins.{i}.projection", "transformer/adaptive_softmax/cutoff_{i}/proj", TURNED)),
    same("embedding.bins.0.weight", "transformer/adaptive_embed/lookup_table"),
    same("embedding.bins.0.projection", "transformer/adaptive_embed/proj_W", TURNED),
    same("crit.bins.0.bias", "transformer/adaptive_softmax/bias"),
    ignored={**OPTIMIZER, r"(?!transformer/).*": "outside the scope of the model"},
)


def tf1(config: Any, head: Head) -> WeightMap:
    """Return the map for one config: one table has other names than several, and its biases are cut at the cutoffs."""
    rows: list[Row] = []
    if not config.untie_r:
        rows += [same("content_bias", "transformer/r_w_bias"), same("position_bias", "transformer/r_r_bias")]
    if config.div_val == 1:
        rows.append(same("embedding.bins.0.weight", "transformer/adaptive_embed/lookup_table"))
        rows.append(same("embedding.bins.0.projection", "transformer/adaptive_embed/proj_W", TURNED))
    if not config.cutoffs:
        rows.append(same("crit.bins.0.bias", "transformer/adaptive_softmax/bias"))
    elif config.div_val == 1:
        borders = [0, *config.cutoffs, config.vocab_size]
        for number, (start, stop) in enumerate(pairwise(borders)):
            rows.append(cut("crit.bins.0.bias", f"transformer/adaptive_softmax/cutoff_{number}/b", start, stop))
    given = {row.theirs for row in rows}
    return WeightMap(*rows, *(row for row in TF1.rows if row.theirs not in given), ignored=TF1.ignored)
