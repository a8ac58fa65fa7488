"""Where checkpoints of XLM come from: what is derived from which tensors and parameters, and what is refused."""

import json

import pytest

from xlcore import FAMILIES, ConfigError, FormatError
from xlcore.families.xlm import XLMConfig
from xlcore.inert import HERE
from xlcore.maps import ORIGINS
from xlcore.maps.xlm import HF, HF_TF, MOST_CLUSTERS, PTH, PTH_DECODER, hf, pth
from xlcore.maps.xlm_origins import plain_pth, tokenizer_files
from xlcore.origin import Seen
from xlcore.tokenizers.xlm_files import RESERVED, from_dictionary, to_dictionary

FAMILY = FAMILIES["xlm"]
HEADS = {head.name: head for head in FAMILY.heads}
ORIGIN = {origin.name: origin for origin in ORIGINS if origin.model_type == "xlm"}
LM, QA, CHOICE = "XLMWithLMHeadModel", "XLMForQuestionAnswering", "XLMForMultipleChoice"
SMALL = {"vocab_size": 30, "emb_dim": 8, "n_heads": 2, "n_layers": 2, "max_position_embeddings": 512, "num_labels": 3}
CLUSTERS = {"asm": True, "asm_cutoffs": [10, 20], "asm_div_value": 2.0}
PARAMS = {"n_heads": 2, "n_words": 30, "emb_dim": 8, "n_layers": 2}
HALF = {"is_encoder": False, "causal": True}


def config_of(**keys) -> XLMConfig:
    return XLMConfig(**{**SMALL, **keys})


def shapes_of(origin, config, head=LM) -> dict[str, tuple[int, ...]]:
    """Return the shapes in a file of an origin, by the names there."""
    it = ORIGIN[origin]
    shapes = it.weights(config, HEADS[head]).shapes(FAMILY.params(config, HEADS[head]), config.sizes)
    return {written: shapes[name] for name, written in it.written(shapes, config, HEADS[head]).items()}


def seen(origin, shapes, *, params=None, given=None, **extras) -> Seen:
    """Return what a checkpoint shows that has these tensors."""
    plain = ORIGIN[origin].plain(shapes)
    extras |= {} if params is None else {"params": params}
    found = {name: shapes[written] for written, name in plain.items()}
    return Seen("here", found, {name: written for written, name in plain.items()}, {}, given or {}, extras)


def derived(origin, config, head=LM, **more) -> XLMConfig:
    return XLMConfig(**ORIGIN[origin].derive(seen(origin, shapes_of(origin, config, head), **more)).keys)


# ------------------------------------------------------------------------------------------------------------- names


def test_the_authors_names_are_huggingfaces_without_a_prefix():
    names = [
        "module.embeddings.weight",
        "layer_norm1.0.weight",
        "pred_layer.proj.bias",
        "module.pred_layer.proj.weight",
    ]
    assert list(plain_pth(names).values()) == [
        "transformer.embeddings.weight",
        "transformer.layer_norm1.0.weight",
        "pred_layer.proj.bias",
        "pred_layer.proj.weight",
    ]


def test_each_half_of_a_translation_model_has_names_of_its_own():
    names = ["encoder.module.embeddings.weight", "decoder.encoder_attn.0.q_lin.bias", "decoder.pred_layer.proj.bias"]
    assert list(plain_pth(names).values()) == [
        "transformer.embeddings.weight",
        "decoder.transformer.encoder_attn.0.q_lin.bias",
        "decoder.pred_layer.proj.bias",
    ]
    alone = ["encoder_attn.0.q_lin.bias", "embeddings.weight", "pred_layer.proj.bias"]
    assert list(plain_pth(alone).values()) == [
        "decoder.transformer.encoder_attn.0.q_lin.bias",
        "decoder.transformer.embeddings.weight",
        "decoder.pred_layer.proj.bias",
    ]


def test_the_half_that_is_not_taken_is_ignored_for_a_reason():
    assert PTH.why_ignored("decoder.pred_layer.proj.bias") == "the decoder's; is_encoder=False takes the decoder"
    for name in ("transformer.embeddings.weight", "pred_layer.proj.bias"):
        assert PTH.why_ignored(name) is None
        assert PTH_DECODER.why_ignored(name) == "the encoder's; is_encoder=True takes the encoder"
        assert PTH_DECODER.why_ignored(f"decoder.{name}") is None


def test_a_table_that_an_adaptive_softmax_has_no_use_for_is_ignored():
    for weights, config, name in (
        (hf, config_of(**CLUSTERS), "pred_layer.proj.weight"),
        (pth, config_of(**CLUSTERS), "pred_layer.proj.weight"),
        (pth, config_of(**CLUSTERS, **HALF), "decoder.pred_layer.proj.weight"),
    ):
        assert weights(config, HEADS[LM]).why_ignored(name) == "of no use to an adaptive softmax"
    assert hf(config_of(), HEADS[LM]).why_ignored("pred_layer.proj.weight") is None
    assert pth(config_of(), HEADS[LM]).why_ignored("pred_layer.proj.weight") is None


def test_numbers_of_positions_are_ignored_in_old_files():
    reason = "the numbers 0, 1, ... of the positions"
    assert HF.why_ignored(HF.full_name("position_ids")) == HF.why_ignored("transformer.position_ids") == reason
    assert PTH_DECODER.why_ignored("decoder.transformer.position_ids") == reason


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("embedding.weight", "transformer/embeddings/weight"),
        ("embedding_of_languages.weight", "transformer/lang_embeddings/embeddings"),
        ("embedding_norm.bias", "transformer/layer_norm_emb/beta"),
        ("blocks.1.attention.out.weight", "transformer/attentions_._1/out_lin/kernel"),
        ("blocks.1.attention_norm.weight", "transformer/layer_norm1_._1/gamma"),
        ("blocks.1.feed_forward.inner.bias", "transformer/ffns_._1/lin1/bias"),
        ("lm_head.bias", "pred_layer_._proj/bias"),
        ("sequence_summary.projection.weight", "sequence_summary/summary/kernel"),
        ("score.weight", "logits_proj/kernel"),
        ("spans.bias", "qa_outputs/bias"),
    ],
)
def test_tensorflow_calls_them_so(ours, theirs):
    assert HF_TF.theirs(ours)[0] == theirs
    assert bool(HF_TF.layout(theirs)) == theirs.endswith("kernel")


def test_paths_of_tensorflow_have_a_group_a_model_and_a_number():
    scope = "tfxlm_with_lm_head_model_2"
    names = {
        f"pred_layer_._proj/{scope}/pred_layer_._proj/bias:0": "pred_layer_._proj/bias",
        f"pred_layer_._proj/{scope}/transformer/embeddings/weight:0": "pred_layer_._proj/weight",
        f"transformer/{scope}/transformer/embeddings/weight:0": "transformer/embeddings/weight",
        f"transformer/{scope}/transformer/ffns_._0/lin1/kernel:0": "transformer/ffns_._0/lin1/kernel",
    }
    origin = ORIGIN["hf-tf"]
    assert origin.plain(names) == names
    back = origin.written(names.values(), config_of(), HEADS[LM])
    assert {path.replace("_model/", "_model_2/", 1) for path in back.values()} == names.keys()


# ---------------------------------------------------------------------------------------------------------- deriving

EXAMPLES = {"plain": {}, "clusters": CLUSTERS, "untied": {"tie_word_embeddings": False}, "decoder": HALF}


@pytest.mark.parametrize("keys", EXAMPLES.values(), ids=EXAMPLES)
def test_what_is_written_tells_the_config(keys):
    config = config_of(**keys, n_langs=3, gelu_activation=False, dropout=0.2, id2lang={"0": "x", "1": "y", "2": "z"})
    extras = ORIGIN["torch-original"].extras(config, HEADS[LM], lambda name: None)
    assert list(extras) == ["model" if config.is_encoder else "decoder", "params"]
    assert next(iter(extras.values())) is HERE
    found = derived("torch-original", config, params=extras["params"])
    wanted = config.copy(num_labels=2, tie_word_embeddings=config.tie_word_embeddings and not config.asm)
    assert {key: getattr(found, key) for key in found.fields} == {key: getattr(wanted, key) for key in found.fields}
    assert dict(found.id2lang) == dict(config.id2lang)


@pytest.mark.parametrize(
    ("clm", "mlm", "causal"),
    [([("en", None)], [], True), ([("en", None)], [("en", None)], False), ([], [("en", "fr")], False)],
)
def test_what_was_trained_on_next_words_only_is_causal(clm, mlm, causal):
    found = ORIGIN["torch-original"].derive(
        seen(
            "torch-original",
            shapes_of("torch-original", config_of()),
            params=PARAMS | {"clm_steps": clm, "mlm_steps": mlm},
        )
    )
    assert found.keys["causal"] is causal
    assert found.told["causal"] == f"how it was trained: {'' if causal else 'not '}on next words only"
    kept = config_of(causal=causal, clm_steps=clm, mlm_steps=mlm)
    params = ORIGIN["torch-original"].extras(kept, HEADS[LM], lambda name: None)["params"]
    assert (params["clm_steps"], params["mlm_steps"]) == (clm, mlm)


def test_steps_that_contradict_the_config_are_not_written():
    config = config_of(causal=True, mlm_steps=[["en", None]], id2lang={"0": "en"})
    params = ORIGIN["torch-original"].extras(config, HEADS[LM], lambda name: None)["params"]
    assert (params["clm_steps"], params["mlm_steps"]) == ([("en", None)], [])


def test_of_the_parameters_only_those_that_are_known_are_taken():
    told = {"share_inout_emb": False, "dropout": 0.3, "command": "python", "asm_div_value": 3.0}
    params = PARAMS | told | {"para_dataset": {("en", "fr"): {"train": 1}}}
    found = derived("torch-original", config_of(), params=params)
    assert (found.tie_word_embeddings, found.dropout, found.asm_div_value) == (False, 0.3, None)
    assert not hasattr(found, "command")


def test_the_earliest_files_tell_no_ids():
    found = derived("torch-original", config_of(), params=PARAMS)
    ids = (found.bos_index, found.eos_index, found.pad_index, found.unk_index, found.mask_index)
    assert ids == (0, 1, 2, 3, 5)
    assert (found.use_lang_emb, found.tie_word_embeddings, found.layer_norm_eps) == (True, True, 1e-12)


def test_languages_without_names_are_called_by_their_number():
    for told in ({}, {"id2lang": {"0": "en"}}, {"id2lang": "en"}, {"id2lang": {"x": "en", "1": "fr"}}):
        params = ORIGIN["torch-original"].extras(config_of(n_langs=2, **told), HEADS[LM], lambda name: None)["params"]
        assert (params["id2lang"], params["lgs"]) == ({0: "0", 1: "1"}, "0-1")


def test_heads_must_be_told_or_those_of_a_released_model():
    expected = r"^here: n_heads must be told, got tensors that do not; give the key 'n_heads' or a config\.json$"
    for origin in ("hf", "hf-tf", "torch-original"):
        with pytest.raises(ConfigError, match=expected):
            derived(origin, config_of())
    assert derived("hf", config_of(), given={"n_heads": 4}).n_heads == 4
    for width, heads in ((1024, 8), (1280, 16), (2048, 16)):
        assert derived("hf", config_of(emb_dim=width)).n_heads == heads


def test_heads_that_are_taken_out_are_counted():
    config = config_of(pruned_heads={1: [0]})
    assert derived("hf", config, given={"n_heads": 2}).pruned_heads == {1: [1]}  # whichever it was


def test_clusters_are_measured():
    found = derived("hf", config_of(**CLUSTERS), given={"n_heads": 2})
    assert (found.asm, found.asm_cutoffs, found.asm_div_value) == (True, [10, 20], 2.0)
    shapes = shapes_of("hf", config_of(**CLUSTERS))
    shapes["pred_layer.proj.tail.1.0.weight"] = (3, 8)
    assert "asm_div_value" not in ORIGIN["hf"].derive(seen("hf", shapes, given={"n_heads": 2})).keys


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("origin", ["hf", "hf-tf"])
def test_the_head_follows_from_its_tensors(origin, head):
    if (origin, head) == ("hf-tf", QA):
        return
    shown = seen(origin, shapes_of(origin, config_of(), head), given={"n_heads": 2})
    assert ORIGIN[origin].head(shown, config_of()) == head
    labelled = head in (CHOICE, "XLMForSequenceClassification", "XLMForTokenClassification")
    assert ORIGIN[origin].derive(shown).keys.get("num_labels") == (3 if labelled else None)


def test_choices_without_a_summary_are_seen():
    config = config_of(summary_use_proj=False, num_labels=8)
    found = derived("hf", config, CHOICE, given={"n_heads": 2})
    assert (found.summary_use_proj, found.num_labels) == (False, 8)


# ------------------------------------------------------------------------------------------------------------ refusals


def test_tensors_of_no_model_make_no_config():
    with pytest.raises(ConfigError, match="a config must be there or follow from the embeddings, got neither"):
        ORIGIN["hf"].derive(seen("hf", {"attentions.0.q_lin.weight": (8, 8)}))


def test_memories_are_refused():
    shapes = shapes_of("torch-original", config_of()) | {"memories.1_in.keys": (2, 3)}
    expected = r"^here: layers must be attention and feed-forward, got a product-key memory, 'memories\.1_in\.keys'"
    with pytest.raises(ConfigError, match=expected):
        ORIGIN["torch-original"].derive(seen("torch-original", shapes, params=PARAMS))


def test_a_half_that_is_not_there_is_refused():
    for config, given, message in (
        (config_of(), {"is_encoder": False}, "is_encoder must be True for a file with an encoder only, got False"),
        (config_of(**HALF), {"is_encoder": True}, "is_encoder must be False for a file with a decoder only, got True"),
    ):
        with pytest.raises(ConfigError, match=f"^here: {message}$"):
            derived("torch-original", config, params=PARAMS, given=given)


def test_parameters_that_contradict_the_tensors_are_refused():
    expected = "^here: vocab_size of the parameters in the file must be 30, as the tensors have it, got 31$"
    with pytest.raises(ConfigError, match=expected):
        derived("torch-original", config_of(), params=PARAMS | {"n_words": 31})


@pytest.mark.parametrize(
    ("origin", "keys", "head", "message"),
    [
        ("hf-tf", {}, QA, f"head must be one that it has, got {QA}"),
        ("hf-tf", CLUSTERS, LM, "asm must be False there, got True"),
        ("hf-tf", {"sinusoidal_embeddings": True}, LM, "sinusoidal_embeddings must be False there, got True"),
        ("hf-tf", HALF, LM, "is_encoder must be True there, got False"),
        ("hf-tf", {"pruned_heads": {0: [1]}}, LM, "pruned_heads must be {} there, got {0: [1]}"),
        ("hf-tf", {"tie_word_embeddings": False}, LM, "tie_word_embeddings must be True there, got False"),
        ("torch-original", {}, QA, f"head must be {LM} there, got {QA}"),
        ("torch-original", {"layer_norm_eps": 1e-5}, LM, "layer_norm_eps must be 1e-12 there, got 1e-05"),
        ("torch-original", {"max_position_embeddings": 9}, LM, "max_position_embeddings must be 512 there, got 9"),
        ("torch-original", {"hide_padding": True}, LM, "hide_padding must be False there, got True"),
        ("torch-original", {"pruned_heads": {0: [1]}}, LM, "pruned_heads must be {} there, got {0: [1]}"),
        ("torch-original", {"eos_token_id": [1, 4]}, LM, "eos_token_id must be one id there, got [1, 4]"),
        ("torch-original", {"pad_token_id": None}, LM, "pad_token_id must be one id there, got None"),
    ],
)
def test_what_an_origin_has_no_way_to_hold_is_refused(origin, keys, head, message):
    with pytest.raises(ConfigError) as refused:
        ORIGIN[origin].check(config_of(**keys), HEADS[head])
    assert str(refused.value) == f"{origin}: {message}; choose another format"


def test_more_clusters_than_the_map_has_lines_for_are_refused():
    many = config_of(asm=True, asm_cutoffs=list(range(1, MOST_CLUSTERS + 2)), asm_div_value=1.01)
    with pytest.raises(ConfigError, match=r"^hf: asm_cutoffs must be at most 16, got 17$"):
        ORIGIN["hf"].check(many, HEADS[LM])


# ------------------------------------------------------------------------------------------------------ whose it is


@pytest.mark.parametrize(
    ("change", "extras", "expected"),
    [
        (lambda name: name, {}, "torch-original"),
        (lambda name: f"module.{name}", {}, "torch-original"),
        (lambda name: f"encoder.{name}", {}, "torch-original"),
        (lambda name: name if "pred_layer" in name else f"transformer.{name}", {}, "hf"),
        (lambda name: "x" if "pred_layer" in name else name, {}, "hf"),
        (lambda name: "x" if "pred_layer" in name else name, {"dico_word2id": {}}, "torch-original"),
        (lambda name: f"net.{name}", {}, None),
    ],
)
def test_it_is_known_by_its_names(change, extras, expected):
    shapes = {change(name): shape for name, shape in shapes_of("torch-original", config_of()).items()}
    found = [
        name for name, origin in ORIGIN.items() if name != "keras" and origin.recognise(seen(name, shapes, **extras))
    ]
    assert found == ([expected] if expected else [])


# ------------------------------------------------------------------------------------------------------ the dictionary

WORDS = {word: index for index, word in enumerate((*RESERVED, "the", "i@@", "Cat", "@@", "a@@b", "ab@@"))}


def test_words_end_where_ours_do_and_come_back():
    table = from_dictionary(WORDS, "here")
    tokens = {index: token for token, index in table.items()}
    assert [tokens[index] for index in range(14, 20)] == ["the</w>", "i", "Cat</w>", "", "a@@b", "ab"]
    assert [tokens[index] for index in range(14)] == list(RESERVED)
    back = to_dictionary(json.dumps(table).encode(), len(WORDS))
    assert {word: index for index, word in back.items()} == WORDS


def test_a_mark_within_a_word_comes_off_as_in_transformers():
    words = {word: index for index, word in enumerate((*RESERVED, "a@@b"))}
    assert from_dictionary(words, "here")["ab"] == 14


@pytest.mark.parametrize(
    "words", [{"a": 0, "b": 0}, {"a": -1}, {"a": "0"}, {}, {7: 0}, {"\ud800": 0}, {"<s>": 0, "x": 20, "x</w>": 20}]
)
def test_a_dictionary_that_is_none_is_refused(words):
    with pytest.raises(
        FormatError, match=r"^here: (must give each token an id of its own|dico_word2id must have words)"
    ):
        from_dictionary(words, "here")


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"a": 1}', b'{"a": 0, "b": 2}', b'{"a": "x"}', b'{"a": 0}'])
def test_a_vocabulary_that_is_none_for_the_model_is_refused(content):
    with pytest.raises(FormatError, match=r"^vocab\.json: must (give|have)"):
        to_dictionary(content, 2)
    with pytest.raises(FormatError, match=r"^vocab\.json: the file must be JSON"):
        to_dictionary(b"{", 2)


def test_a_tokenizer_follows_from_a_dictionary():
    files = tokenizer_files({"dico_word2id": WORDS, "params": {"id2lang": {0: "de", 1: "en"}}}, "here")
    assert json.loads(files["vocab.json"])["Cat</w>"] == 16
    assert json.loads(files["tokenizer_config.json"]) == {
        "tokenizer_class": "XLMTokenizer", "do_lowercase_and_remove_accent": False, "split_unknown": True,
        "id2lang": {"0": "de", "1": "en"}, "lang2id": {"de": 0, "en": 1},
    }  # fmt: skip
    lowered = {word: index for word, index in WORDS.items() if word != "Cat"}
    for params in (None, {}, {"id2lang": "x"}, {"id2lang": {"a": "b"}}):
        settings = json.loads(
            tokenizer_files({"dico_word2id": lowered, "params": params}, "here")["tokenizer_config.json"]
        )
        assert settings["do_lowercase_and_remove_accent"] is True
        assert "lang2id" not in settings
    assert tokenizer_files({"params": {}}, "here") == {}


def test_an_original_gets_its_dictionary_from_a_vocabulary():
    content = json.dumps(from_dictionary({word: index for index, word in enumerate((*RESERVED, "the", "i@@"))}, "here"))
    extras = ORIGIN["torch-original"].extras(config_of(vocab_size=16), HEADS[LM], {"vocab.json": content.encode()}.get)
    assert list(extras) == ["model", "dico_id2word", "dico_word2id", "dico_counts", "params"]
    assert (extras["dico_id2word"][14], extras["dico_word2id"]["i@@"]) == ("the", 15)
    assert list(extras["dico_counts"].values()) == [0] * 14 + [1, 1]
