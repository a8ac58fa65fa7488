"""Torch files whose tensors claim what is not there, and those that torch itself writes."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pickle_bytes import archive, name, short, storage, stream, tensor

from xlcore import pickles
from xlcore.errors import FormatError


class TestHostileTensors:
    VALUES = {"0": np.arange(4, dtype="f4")}

    @pytest.mark.parametrize("pack", [stream, archive])
    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (
                tensor("FloatStorage", "0", 4, 0, (5,), (1,)),
                r"a tensor must lie in its storage of 4 numbers, got shape \(5,\)",
            ),
            (tensor("FloatStorage", "0", 4, 3, (2,), (1,)), "a tensor must lie in its storage of 4 numbers"),
            (tensor("FloatStorage", "0", 4, 0, (2, 2), (3, 1)), "a tensor must lie in its storage"),
            (tensor("FloatStorage", "0", 4, 0, (2,), (-1,)), "a size must be a whole number of 0 or more, got -1"),
            (tensor("FloatStorage", "0", 4, 0, (-2,), (1,)), "a size must be a whole number of 0 or more, got -2"),
            (tensor("FloatStorage", "0", 4, 0, (2, 2), (1,)), "a tensor must have a stride for each axis"),
            (tensor("FloatStorage", "0", 4, 0, (1 << 30, 1 << 30), (0, 0)), "a tensor must lie in its storage"),
            (tensor("FloatStorage", "0", 4, 0, (1,) * 40, (1,) * 40), "a shape must be a tuple of at most 32 sizes"),
            (tensor("FloatStorage", "0", 1 << 30, 0, (1,), (1,)), "a storage must lie in the file|must hold"),
            (tensor("FloatStorage", "0", -1, 0, (1,), (1,)), "a size must be a whole number of 0 or more, got -1"),
            (
                name("torch._utils", "_rebuild_tensor_v2") + b"(NK\x00))\x89)tR",
                "a tensor must stand on a storage, got NoneType",
            ),
            (b"K\x01Q", r"a reference must be \('storage', type, key, device, count\)"),
            (
                b"(" + short("storage") + name("os", "system") + short("0") + short("cpu") + b"K\x01tQ",
                "a reference must be",
            ),
            (
                b"(" + short("module") + name("torch", "FloatStorage") + short("0") + short("cpu") + b"K\x01tQ",
                "a reference must",
            ),
        ],
    )
    def test_claims_are_checked(self, pack, body: bytes, message: str) -> None:
        with pytest.raises(FormatError, match=message):
            pickles.load(pack(body, self.VALUES))

    def test_stream(self) -> None:
        body = tensor("FloatStorage", "0", 4, 0, (4,), (1,))
        good = stream(body, self.VALUES)
        assert np.array_equal(pickles.load(good), self.VALUES["0"])
        for data, message in [
            (stream(body, self.VALUES, version=1002), "the version of a torch stream must be 1001, got 1002"),
            (good[:-1], "storage '0' must hold 4 numbers, got 4; is the file cut off"),
            (stream(body, {"0": np.arange(3, dtype="f4")}), "storage '0' must hold 4 numbers, got 3"),
            (stream(body, {"1": self.VALUES["0"]}), "the keys of a torch stream must be those that its tensors use"),
            (
                stream(b"](" + body + tensor("LongStorage", "0", 4, 0, (1,), (1,)) + b"e", self.VALUES),
                "one type and count",
            ),
        ]:
            with pytest.raises(FormatError, match=message):
                pickles.load(data)
        view = storage("FloatStorage", "0", 4).removesuffix(b"tQ") + b"K\x01tQ"
        with pytest.raises(FormatError, match="a storage must not be a view of another"):
            pickles.load(stream(view, self.VALUES))

    def test_zip(self) -> None:
        body = tensor("FloatStorage", "0", 4, 0, (4,), (1,))
        with pytest.raises(FormatError, match="a torch zip must hold the storages of its tensors, got none called '0'"):
            pickles.load(archive(body, {}))
        with pytest.raises(
            FormatError, match="a storage must lie in the file, got a claim of 4 numbers of type float32"
        ):
            pickles.load(archive(body, {"0": np.zeros(3, "f4")}))
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as written:
            written.writestr("model/data.pkl", b"\x80\x02" + b"N" * 1000 + b".")
        with pytest.raises(FormatError, match=r"an entry of a torch zip must be stored whole, got 'model/data\.pkl'"):
            pickles.load(file.getvalue())
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as written:
            written.writestr("readme", b"x")
        with pytest.raises(FormatError, match=r"a torch zip must have one <name>/data\.pkl, got 0"):
            pickles.load(file.getvalue())
        with pytest.raises(FormatError, match="must be a whole pickle, got one that fails: File is not a zip file"):
            pickles.load(b"PK\x03\x04 and no more")

    def test_hostile_call_in_a_zip(self, tmp_path: Path) -> None:
        body = name("os", "system") + short(f"touch {tmp_path / 'ran'}") + b"\x85R"
        assert pickles.load(archive(body, {})).args == (f"touch {tmp_path / 'ran'}",)
        assert not (tmp_path / "ran").exists()


def test_torch_writes_what_we_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    weights = {
        "a": torch.randn(3, 4),
        "b": torch.randn(4, 3).half().t(),
        "c": torch.arange(5)[1:4],
        "d": torch.ones(2) > 0,
    }
    weights |= {"e": torch.nn.Parameter(torch.randn(2).double()), "f": torch.randn(3).bfloat16(), "g": torch.tensor(3)}
    for legacy in (False, True):
        torch.save(weights, tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
        found = pickles.load(tmp_path / "w.pt", strict=True)
        assert list(found) == list(weights)
        for key, value in weights.items():
            assert found[key].shape == tuple(value.shape)
            assert np.array_equal(found[key].astype("f8"), value.detach().double().numpy())
