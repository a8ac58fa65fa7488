"""What the parameters of Transformer-XL are called elsewhere."""

from xlcore.weightmap import WeightMap, same, stacked

HF = WeightMap(
    same("embedding.bins.{i}.weight", "transformer.word_emb.emb_layers.{i}.weight"),
    same("embedding.bins.{i}.projection", "transformer.word_emb.emb_projs.{i}"),
    same("content_bias", "transformer.r_w_bias"),
    same("position_bias", "transformer.r_r_bias"),
    stacked("blocks.{i}.attention.{part}.weight", "query key value", "transformer.layers.{i}.dec_attn.qkv_net.weight"),
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
    ignored=(r"transformer\.pos_emb\.inv_freq",),
)
