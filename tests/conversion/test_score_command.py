"""`xlbridge score`: from a folder and a text to figures, in either framework."""

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from conversion import cli, scoring
from xlcore import TransfoXLConfig, TransfoXLTokenizer, XLMConfig, XLMTokenizer
from xlcore.errors import XLError
from xlcore.tasks.scoring import ScoringJob

XLM_FILES = Path(__file__).parent.parent / "golden" / "tokenizers" / "xlm"
WORDS = ["<eos>", "<unk>", "the", "cat", "sat", "on", "mat", ".", "dog"]
TEXT = "the cat sat on the mat .\n\nthe dog sat on the cat .\n"
SIZES = {"cutoffs": [4], "d_model": 16, "d_embed": 16, "n_head": 2, "d_head": 8, "d_inner": 32, "n_layer": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with its tokenizer, and a text."""
    torch = pytest.importorskip("torch")
    import xl_torch

    made = tmp_path_factory.mktemp("model")
    (made / "words.txt").write_text("\n".join(WORDS) + "\n")
    tokenizer = TransfoXLTokenizer(vocab_file=str(made / "words.txt"), special=WORDS[:2])
    torch.manual_seed(0)
    xl_torch.TransfoXLLMHeadModel(TransfoXLConfig(vocab_size=9, mem_len=8, div_val=1, **SIZES)).save_pretrained(made)
    tokenizer.save_pretrained(str(made))
    (made / "text.txt").write_text(TEXT)
    return made


def asked(capsys, *arguments):
    """Return the exit status and what was printed, of a command."""
    code = cli.main(["score", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize("framework", ["torch", "tensorflow"])
def test_the_figures_are_those_of_the_model(framework, folder, capsys):
    pytest.importorskip(framework)
    import xl_torch

    how = ["--batch-size", 2, "--tgt-len", 3, "--mem-len", 5, "--clamp-len", 4, "--no-same-length", "--lines"]
    options = ["--framework", framework, "--dtype", "float64", "--json", *how]
    code, out, err = asked(capsys, folder, folder / "text.txt", *options)
    assert (code, err) == (0, "")
    words = [2, 3, 4, 5, 2, 6, 7, 0, 0, 2, 8, 4, 5, 2, 3, 7, 0]
    model = xl_torch.TransfoXLLMHeadModel.from_pretrained(folder, dtype="float64")
    keys = {"batch_size": 2, "tgt_len": 3, "mem_len": 5, "clamp_len": 4, "same_length": False}
    wanted = xl_torch.score(model, words, **keys, characters=len(TEXT), words=14).to_dict()
    assert json.loads(out) == pytest.approx(wanted, rel=1e-12)


def test_each_line_by_itself(folder, capsys):
    import xl_torch

    code, out, err = asked(capsys, folder, folder / "text.txt", "--sentences", "--whitespace")
    assert (code, err) == (0, "")
    head, *lines = out.splitlines()
    assert head.split() == ["log-probability", "tokens", "sentence"]
    model = xl_torch.TransfoXLLMHeadModel.from_pretrained(folder)
    found = xl_torch.score_sentences(model, [[2, 3, 4, 5, 2, 6, 7], [2, 8, 4, 5, 2, 3, 7]])
    for line, each, text in zip(lines, found, TEXT.split("\n\n"), strict=True):
        value, tokens, sentence = line.split(maxsplit=2)
        assert (int(tokens), sentence) == (each.tokens, text.strip())
        assert abs(float(value) - each.log_probability) < 1e-3


def test_a_table_for_people(folder, capsys, monkeypatch):
    """The framework's answer is what is shown; the text comes from standard input."""
    given = {}
    figures = {
        "loss": 2.0,
        "perplexity": 7.389,
        "bits_per_token": 2.885,
        "bits_per_character": 1.5,
        "bits_per_word": 9.0,
    }
    counts = {"tokens": 1200, "length": 1201, "characters": 5000, "words": 900}
    monkeypatch.setattr(scoring, "_asked", lambda job, *where: given.update(job=job, where=where) or figures | counts)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"the cat sat")))
    code, out, _ = asked(capsys, folder, "-", "--window", "--tgt-len", 4, "--device", "cuda:1")
    assert code == 0
    assert out.splitlines()[0].split() == ["loss", "2.0000", "nats", "a", "token"]
    assert out.splitlines()[-1].split() == "tokens predicted 1,200 of 1,201; 5,000 characters, 900 words".split()
    job = given["job"]
    assert (job.head, job.device, given["where"]) == ("TransfoXLLMHeadModel", "cuda", ("torch", "cuda:1"))
    assert (job.reading["window"], job.counts) == (True, {"characters": 11, "words": 3})
    np.testing.assert_array_equal(job.texts[0], [2, 3, 4])


def job_for(monkeypatch, capsys, *arguments):
    """Return what a framework would be asked."""
    given = {}
    monkeypatch.setattr(scoring, "_asked", lambda job, *where: given.update(job=job) or [])
    code, _, err = asked(capsys, *arguments, "--json")
    assert (code, err) == (0, "")
    return given["job"]


def test_nothing_but_a_newline_ends_a_line(folder, capsys, monkeypatch, tmp_path):
    """Other signs that Python takes for the end of a line are part of it, as for the tokenizer's own `encode_file`."""
    text = "the cat\u2028sat\x0con\x85the mat\r\nthe dog\n"
    (tmp_path / "text.txt").write_bytes(text.encode())
    tokenizer = TransfoXLTokenizer.from_pretrained(str(folder))
    wanted = [row.tolist() for row in tokenizer.encode_file(str(tmp_path / "text.txt"), add_eos=True)]
    job = job_for(monkeypatch, capsys, folder, tmp_path / "text.txt", "--lines")
    assert len(wanted) == 2
    assert [index for row in wanted for index in row] == job.texts[0].tolist()
    job = job_for(monkeypatch, capsys, folder, tmp_path / "text.txt", "--sentences")
    assert [row.tolist() for row in job.texts] == [row[:-1] for row in wanted]


def test_the_mark_of_the_byte_order_is_no_character(folder, capsys, monkeypatch, tmp_path):
    (tmp_path / "text.txt").write_bytes(b"\xef\xbb\xbfthe cat")
    job = job_for(monkeypatch, capsys, folder, tmp_path / "text.txt")
    assert (job.texts[0].tolist(), job.counts) == ([2, 3], {"characters": 7, "words": 2})


def test_empty_lines_have_no_words(folder, capsys, tmp_path):
    """Nothing is told by the word, and what is told by the character stays."""
    (tmp_path / "text.txt").write_text("\n\n\n")
    code, out, err = asked(capsys, folder, tmp_path / "text.txt", "--lines", "--json")
    assert (code, err) == (0, "")
    figures = {"loss", "perplexity", "bits_per_token", "bits_per_character", "tokens", "length", "characters"}
    assert json.loads(out).keys() == figures


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_the_dtype_is_no_key_of_the_config(name, folder, capsys, tmp_path):
    (tmp_path / "keys.json").write_text(json.dumps({name: "float64"}))
    code, _, err = asked(capsys, folder, folder / "text.txt", "--config", tmp_path / "keys.json")
    message = f"score: {name} must be given as --dtype, got 'float64' in {tmp_path / 'keys.json'}"
    assert (code, err) == (2, f"xlbridge score: {message}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["text.txt", "--window", "--same-length"], "score: windows must be read without mem_len and same_length, got"),
        (["text.txt", "--sentences", "--stride", "2"], "score: stride must be given for a text, not for sentences"),
        (["none.txt"], "none.txt: must be usable, got No such file or directory"),
        (["bytes.txt"], "bytes.txt must be text in UTF-8, got byte 0xff"),
    ],
)  # fmt: skip
def test_what_is_refused_before_a_framework_starts(arguments, message, folder, capsys, monkeypatch):
    monkeypatch.setattr(scoring, "_asked", lambda *_: pytest.fail("must not be called"))
    (folder / "bytes.txt").write_bytes(b"the cat \xff")
    code, out, err = asked(capsys, folder, folder / arguments[0], *arguments[1:])
    assert (code, out) == (2, "")
    assert message in err


def test_a_device_that_is_none(folder, capsys):
    with pytest.raises(SystemExit):
        cli.main(["score", str(folder), "-", "--device", "tpu"])
    assert "a device must be cpu, cuda or cuda:N, got 'tpu'" in capsys.readouterr().err


def test_options_of_one_family(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(XLMConfig(n_layers=1).to_dict()))
    (tmp_path / "text.txt").write_text(TEXT)
    code, _, err = asked(capsys, tmp_path, tmp_path / "text.txt", "--whitespace")
    assert code == 2
    assert "score: whitespace must be given for Transformer-XL only, got it for xlm" in err


@pytest.fixture(scope="module")
def languages(tmp_path_factory):
    """The config of a model of two languages, with a tokenizer that knows their names."""
    made = tmp_path_factory.mktemp("languages")
    files = {name: str(XLM_FILES / name) for name in ("vocab.json", "merges.txt")}
    names = {"lang2id": {"en": 0, "fr": 1}, "id2lang": {"0": "en", "1": "fr"}}
    XLMTokenizer(files["vocab.json"], files["merges.txt"], **names).save_pretrained(str(made))
    (made / "config.json").write_text(json.dumps(XLMConfig(n_layers=1, causal=True, n_langs=2).to_dict()))
    (made / "text.txt").write_text("l'homme", encoding="utf-8")
    return made


def test_the_language_of_a_text(languages, capsys, monkeypatch):
    """By its number, or by its name, whose rules then split the text."""
    tokenizer = XLMTokenizer.from_pretrained(str(languages))
    rules = {lang: tokenizer.convert_tokens_to_ids(tokenizer.tokenize("l'homme", lang=lang)) for lang in ("en", "fr")}
    assert rules["en"] != rules["fr"]
    for asked_for, number, lang in ((None, None, "en"), ("1", 1, "en"), ("fr", 1, "fr"), ("en", 0, "en")):
        for how in ([], ["--sentences"]):
            given = how if asked_for is None else [*how, "--lang", asked_for]
            job = job_for(monkeypatch, capsys, languages, languages / "text.txt", *given)
            assert (job.reading["lang"], job.texts[0].tolist()) == (number, rules[lang])


def test_languages_that_a_model_does_not_have(languages, folder, capsys):
    text = languages / "text.txt"
    for model, lang, told in (
        (languages, "de", "lang must be a number or one of en, fr, got de"),
        (languages, "2", "lang must lie in [0, n_langs=2), got 2"),
        (folder, "fr", "lang must be given for models with languages only, got fr"),
        (folder, "0", "lang must be given for models with languages only, got 0"),
    ):
        code, _, err = asked(capsys, model, text, "--lang", lang)
        assert (code, err) == (2, f"xlbridge score: score: {told}\n")
    with pytest.raises(XLError, match=r"^score: lang must be a number, for the tokenizer knows no names, got fr$"):
        scoring._language(XLMConfig(n_langs=2), SimpleNamespace(), "fr")


def test_lines_need_an_end():
    tokenizer = SimpleNamespace(eos_token_id=None, sep_token_id=None)
    with pytest.raises(ValueError, match="score: lines must end with a token that the tokenizer has, got one without"):
        scoring._ids(tokenizer, TEXT, True, {})


def test_errors_of_the_framework_are_told(folder, capsys, monkeypatch, tmp_path):
    """What the model refuses, in its words; and a framework that does not start."""
    (tmp_path / "short.txt").write_text("the")
    code, _, err = asked(capsys, folder, tmp_path / "short.txt")
    assert (code, err) == (2, "xlbridge score: score: ids must be a row of two ids or more, got int64 [1]\n")
    monkeypatch.setitem(scoring.ROOMS, "torch", "no_such_room")
    code, _, err = asked(capsys, folder, folder / "text.txt")
    assert code == 2
    assert "python -m no_such_room.scoring must run, got: " in err
    assert err.endswith("is the framework installed? pip install 'xlbridge[torch]'\n")
    monkeypatch.setattr(scoring, "ROOMS", {"tensorflow": "no_such_room", "jax": "no_such_room"})
    for framework, extra in (("tensorflow", "tf"), ("jax", "jax")):
        job = ScoringJob("m", "H", "float32", "cpu", {}, {}, {}, [np.arange(3)])
        with pytest.raises(XLError, match=rf"is the framework installed\? pip install 'xlbridge\[{extra}\]'$"):
            scoring._asked(job, framework, "cpu")


def test_a_job_is_read_as_it_was_written(tmp_path):
    job = ScoringJob(
        "m", "H", "float32", "cpu", {"a": 1}, {"batch_size": 2}, {"words": 3}, [np.arange(3), np.arange(0)]
    )
    job.write(tmp_path)
    found = ScoringJob.read(tmp_path)
    assert {**vars(found), "texts": None} == {**vars(job), "texts": None}
    assert [each.tolist() for each in found.texts] == [[0, 1, 2], []]
