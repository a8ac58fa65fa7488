"""Checkpoints from the hub, against one on this machine; huggingface_hub runs in a process of its own, as for users."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hub_server import Hub, Repository, served
from safetensors.numpy import save

from conversion import hub
from conversion.formats import open_reader
from xlcore import FormatError

ROOT = Path(__file__).parents[2]
OLD, NEW = "a" * 40, "b" * 40
WEIGHTS = save({"w": np.arange(1000, dtype="float32")})
SHARDS = {f"model-0000{n}-of-00002.safetensors": save({f"w{n}": np.full(300, n, "float32")}) for n in (1, 2)}
INDEX = json.dumps({"metadata": {}, "weight_map": dict(zip(["w1", "w2"], SHARDS, strict=True))}).encode()
TOKENIZER = {"vocab.txt": b"a\nb\n", "tokenizer_config.json": b"{}", "special_tokens_map.json": b"{ }"}
FILES = {
    "README.md": b"# Words",
    ".gitattributes": b"",
    "config.json": b'{"model_type": "transfo-xl"}',
    **TOKENIZER,
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"never" * 400,
    "tf_model.h5": b"never" * 400,
    "flax_model.msgpack": b"never" * 400,
    "optimizer.pt": b"never" * 400,
}
WANTED = ["config.json", "model.safetensors", *sorted(TOKENIZER)]

FETCH = """
import json, sys
from conversion import hub
from xlcore import FormatError
try:
    told = {"path": str(hub.fetched(sys.argv[1], **json.loads(sys.argv[2])))}
except FormatError as error:
    told = {"error": str(error), "cause": type(error.__cause__).__name__}
print(json.dumps(told))
"""


@pytest.fixture
def there() -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub")
    model = Repository(
        {OLD: {"config.json": b"{}", "model.safetensors": WEIGHTS}, NEW: FILES}, {"main": NEW, "v1": OLD}
    )
    with served(Hub({"us/model": model})) as hub:
        yield hub


@pytest.fixture
def fetch(there, tmp_path):
    """Return a function that fetches in a new process, with a home of its own and this machine's hub only."""

    def run(reference: str, env: dict[str, str] | None = None, **options) -> dict[str, str]:
        keys = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        keys |= {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "*"}
        keys |= {"HF_ENDPOINT": there.url, "HF_HUB_DISABLE_TELEMETRY": "1", **(env or {})}
        command = [sys.executable, "-c", FETCH, reference, json.dumps(options)]
        done = subprocess.run(command, env=keys, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def names(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


# --------------------------------------------------------------------------------------------------- what is fetched


def test_config_tokenizer_and_the_best_weights_come_and_nothing_else(there, fetch, tmp_path):
    path = fetch("hf://us/model")["path"]
    assert Path(path).is_relative_to(tmp_path / "hf")
    assert names(path) == WANTED
    assert sorted(there.sent) == WANTED
    assert np.array_equal(open_reader(path).read("w"), np.arange(1000))


def test_what_is_there_is_not_fetched_again(there, fetch):
    path = fetch("hf://us/model")["path"]
    there.sent.clear()
    assert fetch("hf://us/model")["path"] == path
    assert there.sent == []


def test_of_shards_those_come_that_the_index_names(there, fetch):
    there.repositories["us/model"].commits[NEW] = {
        "config.json": b"{}", "model.safetensors.index.json": INDEX, **SHARDS, "pytorch_model.bin": b"never",
        "model-00003-of-00003.safetensors": b"never",
    }  # fmt: skip
    path = fetch("hf://us/model")["path"]
    assert names(path) == ["config.json", *sorted(SHARDS), "model.safetensors.index.json"]
    reader = open_reader(path)
    assert [float(reader.read(name)[0]) for name in ("w1", "w2")] == [1, 2]


def test_a_tensorflow_checkpoint_comes_whole(there, fetch):
    there.repositories["us/model"].commits[NEW] = {
        "xlnet_config.json": b"{}", "m.ckpt.index": b"i", "m.ckpt.meta": b"never", "m.ckpt.data-00000-of-00002": b"0",
        "m.ckpt.data-00001-of-00002": b"1", "checkpoint": b"c", "README.md": b"never",
    }  # fmt: skip
    wanted = [
        "checkpoint",
        "m.ckpt.data-00000-of-00002",
        "m.ckpt.data-00001-of-00002",
        "m.ckpt.index",
        "xlnet_config.json",
    ]
    assert names(fetch("hf://us/model")["path"]) == wanted


@pytest.mark.parametrize(
    ("reference", "options"),
    [("hf://us/model@v1", {}), ("hf://us/model", {"revision": "v1"}), (f"hf://us/model@{OLD}", {})],
)
def test_a_revision_may_be_named(there, fetch, reference, options):
    path = fetch(reference, **options)["path"]
    assert (Path(path).name, names(path)) == (OLD, ["config.json", "model.safetensors"])


def test_a_revision_may_be_a_proposal(there, fetch):
    there.repositories["us/model"].refs["refs/pr/7"] = OLD
    assert Path(fetch("hf://us/model@refs/pr/7")["path"]).name == OLD
    assert Path(fetch("hf://us/model@refs%2Fpr%2F7")["path"]).name == OLD


def test_a_folder_of_the_repository_may_be_named(there, fetch):
    there.repositories["us/model"].commits[NEW] |= {"small/config.json": b"{}", "small/model.safetensors": WEIGHTS}
    path = fetch("hf://us/model/small/")["path"]
    assert (Path(path).parts[-2:], names(path)) == ((NEW, "small"), ["config.json", "model.safetensors"])
    assert "config.json" not in names(Path(path).parent)


def test_a_repository_may_have_no_owner(there, fetch):
    there.repositories["xlnet-base-cased"] = there.repositories["us/model"]
    assert names(fetch("hf://xlnet-base-cased")["path"]) == WANTED


def test_other_weights_come_when_they_are_asked_for(there, fetch):
    path = fetch("hf://us/model", only="*.bin")["path"]
    assert Path(path).name == "pytorch_model.bin"
    assert "model.safetensors" not in there.sent
    assert "config.json" in there.sent
    both = fetch("hf://us/model", only=["tf_model.h5", "flax*"])["path"]
    assert {"tf_model.h5", "flax_model.msgpack", "pytorch_model.bin"} < set(names(both))


def test_a_file_of_weights_may_be_named(there, fetch):
    there.repositories["us/model"].commits[NEW] = {
        "a.pt": b"a", "sub/[b].pt": b"b", "sub/b.pt": b"never", "sub/m.ckpt-3.index": b"i", "sub/config.json": b"{}",
        "sub/m.ckpt-3.data-00000-of-00001": b"d", "sub/m.ckpt-4.index": b"never", "c.pt": b"never",
    }  # fmt: skip
    paths = [fetch(f"hf://us/model/{name}")["path"] for name in ("a.pt", "sub/[b].pt", "sub/m.ckpt-3")]
    assert [Path(path).name for path in paths] == ["a.pt", "[b].pt", "m.ckpt-3.index"]
    assert names(str(Path(paths[0]).parent)) == ["a.pt", "sub"]
    wanted = ["[b].pt", "config.json", "m.ckpt-3.data-00000-of-00001", "m.ckpt-3.index"]
    assert names(str(Path(paths[1]).parent)) == wanted


def test_a_download_that_broke_off_goes_on_where_it_was(there, fetch):
    """The library writes ten MiB at a time, so that is from where it goes on."""
    weights = np.arange(3_000_000, dtype="int32").tobytes()
    there.repositories["us/model"].commits[NEW] = {"model.safetensors": weights}
    there.cut[f"/large/{hashlib.sha256(weights).hexdigest()}"] = 11_000_000
    path = fetch("hf://us/model")["path"]
    assert (Path(path) / "model.safetensors").read_bytes() == weights
    assert there.sent == ["model.safetensors", f"model.safetensors bytes={10 << 20}-"]


# ------------------------------------------------------------------------------------------------------ what is wrong


def refused(told: dict[str, str]) -> str:
    assert told.keys() == {"error", "cause"}, told
    assert "\n" not in told["error"]
    return told["error"]


def test_a_repository_that_is_not_there_is_told(there, fetch):
    told = "the repository must be there, got none of that name that is open to you; log in if it is private"
    assert refused(fetch("hf://us/nothing")) == f"hf://us/nothing: {told}"


def test_a_revision_that_is_not_there_is_told(there, fetch):
    told = "hf://us/model@v9: the revision must be there, got none of that name"
    assert refused(fetch("hf://us/model@v9")) == told


def test_a_gated_repository_is_told(there, fetch):
    there.repositories["us/model"].gated = True
    told = "you must have been granted access, got a gated repository; ask for it on its page and log in to the hub"
    assert refused(fetch("hf://us/model")) == f"hf://us/model: {told}"


def test_a_name_that_the_hub_does_not_allow_is_told(there, fetch):
    assert refused(fetch("hf://us/a--b")).startswith(
        "hf://us/a--b: the repository must have a name that the hub allows, "
    )
    assert there.asked == []


def test_a_hub_that_does_not_answer_is_told(there, fetch):
    there.down = True
    told = refused(fetch("hf://us/model"))
    assert re.fullmatch(
        r"hf://us/model: the hub must answer and the disk take it, got \w+: .*418.*; HF_HUB_OFFLINE=1 .*", told
    )
    told = refused(fetch("hf://us/model", {"HF_ENDPOINT": "http://127.0.0.1:9"}))
    assert re.fullmatch(
        r"hf://us/model: the hub must answer and the disk take it, got \w+: .*; HF_HUB_OFFLINE=1 .*", told
    )


def test_offline_what_was_fetched_before_is_taken(there, fetch):
    offline = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    told = "hf://us/model: must have been fetched before while the hub is offline, got no 'main' of it"
    assert refused(fetch("hf://us/model", offline)) == told
    path = fetch("hf://us/model")["path"]
    assert fetch("hf://us/model", offline)["path"] == path
    assert fetch(f"hf://us/model@{NEW}", offline)["path"] == path
    assert refused(fetch("hf://us/model@v1", offline)).endswith("while the hub is offline, got no 'v1' of it")
    assert refused(fetch("hf://us/other", offline)).endswith("while the hub is offline, got no 'main' of it")


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"weight_map": 3}', b'{"weight_map": {"w": "../../x"}}'])
def test_a_damaged_index_is_refused(there, fetch, content):
    there.repositories["us/model"].commits[NEW] = {"model.safetensors.index.json": content, **SHARDS}
    assert "model.safetensors.index.json: " in refused(fetch("hf://us/model"))
    assert there.sent == ["model.safetensors.index.json"]


# --------------------------------------------------------------------------------------- no network, no huggingface_hub


@pytest.mark.parametrize(
    "reference",
    [
        "hf://",
        "hf://a/b/../c",
        "hf://a/b/./c",
        "hf://a/b//c",
        "hf://a b",
        "hf://a/b@",
        "hf://a/b@x@y",
        "us/model",
        "hf://ä",
    ],
)
def test_what_is_no_reference_is_refused(reference):
    with pytest.raises(FormatError) as error:
        hub.fetched(reference)
    assert str(error.value) == f"{reference}: must be hf://owner/name[@revision][/folder], got another form"


def test_two_revisions_are_refused():
    with pytest.raises(FormatError) as error:
        hub.fetched("hf://us/model@v1", revision="v2")
    assert str(error.value) == "hf://us/model@v1: must name one revision, got 'v1' in it and 'v2' beside it"


def test_references_are_told_from_paths():
    assert hub.is_reference("hf://us/model")
    for path in ("us/model", "/hf://x", Path("hf://us/model"), "./hf"):
        assert not hub.is_reference(path)


def test_without_the_library_it_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FormatError) as error:
        hub.fetched("hf://us/model")
    assert str(error.value).startswith("hf://us/model: huggingface_hub must be installed to fetch it, got ")
    assert str(error.value).endswith("; pip install 'xlbridge[hub]'")


def test_the_library_is_not_imported_until_it_is_used():
    command = "import conversion.hub, sys; print('huggingface_hub' in sys.modules)"
    keys = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", command], env=keys, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        ("model.safetensors pytorch_model.bin tf_model.h5", "model.safetensors"),
        ("model.safetensors.index.json pytorch_model.bin x.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin tf_model.h5 training_args.bin vocab.bin", "pytorch_model.bin"),
        ("pytorch_model.bin.index.json pytorch_model-00001-of-00002.bin tf_model.h5", "pytorch_model.bin.index.json"),
        ("tf_model.h5 model.weights.h5", "tf_model.h5"),
        ("model.weights.h5 other.keras", "model.weights.h5"),
        ("model.weights.json model_00000.weights.h5", "model.weights.json"),
        ("mlm_en_2048.pth optimizer.pt", "mlm_en_2048.pth"),
        ("model.pt dict.txt sentencepiece.bpe.model", "model.pt"),
        ("xlnet_model.ckpt.index xlnet_model.ckpt.data-00000-of-00001", "xlnet_model.ckpt.index"),
        ("checkpoint model.ckpt-2.index model.ckpt-2.data-00000-of-00001", "model.ckpt-2.index"),
    ],
)
def test_the_best_weights_are_chosen(files, chosen):
    assert hub._chosen(files.split(), None, "here") == [chosen]


@pytest.mark.parametrize(
    ("files", "only", "told"),
    [
        ("a.pt b.pt", None, "must hold one checkpoint, got a.pt, b.pt; name one: here/FILE"),
        (
            "a.index a.data-00000-of-00001 b.index",
            None,
            "must hold one checkpoint, got a.index, b.index; name one: here/FILE",
        ),
        ("checkpoint", None, "must hold one checkpoint, got checkpoint; name one: here/FILE"),
        ("README.md config.json", None, "must hold weights in a known format, safetensors, "),
        ("", None, "must hold weights in a known format, safetensors, "),
        ("a.pt b.pt", ["*.bin", "c.pt"], "must hold *.bin or c.pt, got a.pt, b.pt"),
    ],
)
def test_no_weights_or_too_many_are_refused(files, only, told):
    with pytest.raises(FormatError) as error:
        hub._chosen(files.split(), only, "here")
    assert str(error.value).startswith(f"here: {told}")
