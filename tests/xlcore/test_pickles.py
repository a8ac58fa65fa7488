"""The pickle reader reads what genuine files hold, and runs nothing of what hostile ones ask for."""

import argparse
import collections
import io
import os
import pickle
import pickletools
import threading
from pathlib import Path

import numpy as np
import pytest
from pickle_bytes import archive, name, short, stream, tensor

from xlcore import pickles
from xlcore.errors import FormatError

GOLDEN = Path(__file__).parent.parent / "golden" / "tokenizers" / "transfo_xl"


class TestGenuineFiles:
    @pytest.mark.parametrize("file", ["vocab.pkl", "vocab.bin"])
    def test_vocabulary_as_transformers_saved_it(self, file: str) -> None:
        found = pickles.load(GOLDEN / file)
        symbols = (GOLDEN / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
        assert found["idx2sym"] == symbols
        assert found["sym2idx"] == {symbol: index for index, symbol in enumerate(symbols)}
        assert found["moses_tokenizer"].module == "sacremoses.tokenize"
        assert found["moses_tokenizer"].name == "MosesTokenizer"
        assert found["_eos_token"].attributes["content"] == "<eos>"
        assert repr(found["tokens_trie"]) == "<Placeholder transformers.tokenization_utils.Trie>"

    def test_bytes_and_path_give_the_same(self) -> None:
        assert (
            pickles.load((GOLDEN / "vocab.bin").read_bytes())["idx2sym"]
            == pickles.load(GOLDEN / "vocab.bin")["idx2sym"]
        )

    @pytest.mark.parametrize("protocol", [2, 3, 4])
    def test_plain_data(self, protocol: int) -> None:
        data = {"a": [1, -2, 3.5, None, True, False], "b": ("é", b"x", 10**30), "c": {1, 2}, 3: {"d": []}}
        opcodes = pickle.dumps(data, protocol)
        if protocol < 4:  # a set is made by a call there, and calls are recorded only
            found = pickles.load(opcodes)
            assert found["c"].args == ([1, 2],)
            assert (found["c"].module, found["c"].name) == ({2: "__builtin__", 3: "builtins"}[protocol], "set")
            assert {**found, "c": 0} == {**data, "c": 0}
        else:
            assert pickles.load(opcodes) == data

    @pytest.mark.parametrize("protocol", [2, 4])
    def test_dicts_of_all_kinds_are_dicts(self, protocol: int) -> None:
        ordered = collections.OrderedDict([("b", 1), ("a", 2)])
        found = pickles.load(pickle.dumps([ordered, collections.Counter("aab")], protocol), strict=True)
        assert isinstance(found[0], dict)
        assert list(found[0].items()) == [("b", 1), ("a", 2)]
        assert found[1] == {"a": 2, "b": 1}

    def test_state_dict_with_metadata(self) -> None:
        body = name("collections", "OrderedDict") + b")R" + short("w") + b"K\x01s}" + short("_metadata") + b"}sb"
        assert pickles.load(b"\x80\x02" + body + b".") == {"w": 1}

    @pytest.mark.parametrize("protocol", [2, 3, 4])
    @pytest.mark.parametrize("dtype", ["<i4", "<i8", "<f4", "<f8", ">i8", ">f4"])
    def test_numpy_arrays(self, dtype: str, protocol: int) -> None:
        array = np.arange(6).reshape(2, 3).astype(dtype)
        found = pickles.load(pickle.dumps({"x": array, "t": np.asfortranarray(array)}, protocol), strict=True)
        assert np.array_equal(found["x"], array)
        assert np.array_equal(found["t"], array)
        assert found["x"].dtype == array.dtype.newbyteorder("=")  # numpy turns them

    def test_numpy_numbers(self) -> None:
        assert pickles.load(pickle.dumps([np.float64(1.5), np.int64(-3)], 2), strict=True) == [1.5, -3]

    def test_python_2_corpus(self) -> None:
        """A `cache.pkl` as Python 2.7 wrote it: byte strings, classes of the program, arrays as strings."""
        raw = np.array([5, 233, -1, 195 + 169 * 256], "<i8")
        array = (
            name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray") + b"K\x00\x85U\x01b\x87R"
            + b"(K\x01K\x04\x85" + name("numpy", "dtype") + b"U\x02i8K\x00K\x01\x87R"
            + b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff" + b"K\x00tb\x89U\x20" + raw.tobytes() + b"tb"
        )  # fmt: skip
        vocab = name("vocabulary", "Vocab") + b")\x81}U\x07idx2sym]U\x05caf\xc3\xa9asb"
        body = b"\x80\x02" + name("__main__", "Corpus") + b")\x81}(U\x05vocab" + vocab + b"U\x05train" + array + b"ub."
        pickletools.dis(body, io.StringIO())  # a well-formed pickle
        for encoding, symbol in (("utf-8", "café"), ("latin1", "cafÃ©"), ("bytes", b"caf\xc3\xa9")):
            found = pickles.load(body, encoding=encoding)
            assert (found.module, found.name) == ("__main__", "Corpus")
            assert np.array_equal(found.attributes["train"], raw)
            assert found.attributes["vocab"].attributes["idx2sym"] == [symbol]

    def test_placeholder_records_arguments_state_and_items(self) -> None:
        found = pickles.load(pickle.dumps(argparse.Namespace(a=1, b=[2]), 2))
        assert (found.module, found.name, found.attributes) == ("argparse", "Namespace", {"a": 1, "b": [2]})
        body = name("m", "List") + b")\x81(K\x01K\x02e" + b"(K\x03K\x04u" + b"."
        found = pickles.load(b"\x80\x02" + body)
        assert found.items == [1, 2, (3, 4)]
        assert found.args == ()

    @pytest.mark.parametrize("pack", [stream, archive])
    @pytest.mark.parametrize(
        ("kind", "dtype"),
        [("Float", "f4"), ("Double", "f8"), ("Half", "f2"), ("Long", "i8"), ("Int", "i4"), ("Short", "i2"),
         ("Char", "i1"), ("Byte", "u1"), ("Bool", "?")],
    )  # fmt: skip
    def test_tensors_of_all_types(self, pack, kind: str, dtype: str, tmp_path: Path) -> None:
        values = np.arange(6).astype(dtype)
        file = tmp_path / "model.pt"
        file.write_bytes(pack(tensor(f"{kind}Storage", "0", 6, 0, (2, 3), (3, 1)), {"0": values}))
        for source in (file, file.read_bytes()):
            found = pickles.load(source, strict=True)
            assert found.dtype == values.dtype
            assert np.array_equal(found, values.reshape(2, 3))

    @pytest.mark.parametrize("pack", [stream, archive])
    def test_views_share_a_storage(self, pack) -> None:
        values = np.arange(12, dtype="f4")
        body = b"]("
        body += (
            tensor("FloatStorage", "7", 12, 0, (3, 4), (4, 1)) + tensor("FloatStorage", "7", 12, 1, (4, 3), (1, 4))[:0]
        )
        body += tensor("FloatStorage", "7", 12, 2, (2, 2), (1, 4)) + tensor("FloatStorage", "7", 12, 5, (), ())
        body += (
            tensor("FloatStorage", "7", 12, 0, (3, 5), (1, 0))
            + tensor("FloatStorage", "7", 12, 0, (0, 4), (4, 1))
            + b"e"
        )
        whole, view, number, repeated, empty = pickles.load(pack(body, {"7": values}))
        assert np.array_equal(whole, values.reshape(3, 4))
        assert np.array_equal(view, [[2, 6], [3, 7]])
        assert number.shape == ()
        assert number == 5
        assert np.array_equal(repeated, [[0] * 5, [1] * 5, [2] * 5])
        assert empty.shape == (0, 4)

    def test_bfloat16(self) -> None:
        ml_dtypes = pytest.importorskip("ml_dtypes")
        values = np.array([1.5, -2, 0.125], dtype=ml_dtypes.bfloat16)
        found = pickles.load(stream(tensor("BFloat16Storage", "0", 3, 0, (3,), (1,)), {"0": values.view("u2")}))
        assert found.dtype == ml_dtypes.bfloat16
        assert np.array_equal(found.astype("f4"), [1.5, -2, 0.125])

    def test_big_endian_zip(self) -> None:
        values = np.array([1, 2, 3], ">f4")
        found = pickles.load(archive(tensor("FloatStorage", "0", 3, 0, (3,), (1,)), {"0": values}, byteorder=b"big"))
        assert np.array_equal(found, [1, 2, 3])

    def test_writing_to_an_array_leaves_the_file_alone(self, tmp_path: Path) -> None:
        file = tmp_path / "model.pt"
        file.write_bytes(archive(tensor("FloatStorage", "0", 3, 0, (3,), (1,)), {"0": np.ones(3, "f4")}))
        before = file.read_bytes()
        pickles.load(file)[:] = 9
        assert file.read_bytes() == before

    def test_strings_of_python_2_that_are_no_text(self) -> None:
        assert pickles.load(b"\x80\x02U\x02a\xff.") == "a\udcff"
        assert pickles.load(b"\x80\x02U\x02a\xff.", encoding="latin1") == "aÿ"
        assert pickles.load(b"\x80\x02U\x02a\xff.", encoding="bytes") == b"a\xff"

    def test_a_missing_file_is_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            pickles.load(tmp_path / "none.pkl")


class Hostile:
    """What a pickle calls when it is read by Python."""

    def __init__(self, function, *arguments: object):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.fixture
def sentinel(tmp_path: Path):
    """A file that a hostile pickle would make; the test fails if it is there afterwards."""
    file = tmp_path / "sentinel"
    yield file
    assert not file.exists(), "something ran"


class TestHostileFiles:
    @pytest.mark.parametrize("protocol", [2, 4])
    @pytest.mark.parametrize("strict", [False, True])
    def test_calls_are_recorded_not_made(self, sentinel: Path, protocol: int, strict: bool) -> None:
        command = f"touch {sentinel}"
        calls = [
            Hostile(os.system, command),
            Hostile(eval, f"open({str(sentinel)!r}, 'w')"),
            Hostile(exec, f"open({str(sentinel)!r}, 'w')"),
            Hostile(getattr, "x", "upper"),
            Hostile(__import__, "antigravity"),
            Hostile(open, str(sentinel), "w"),
        ]
        for call in calls:
            data = pickle.dumps([call], protocol)
            if strict:
                with pytest.raises(
                    FormatError, match=r"a global must be one that data needs, got .*; it was not imported"
                ):
                    pickles.load(data, strict=True)
            else:
                assert isinstance(pickles.load(data)[0], pickles.Placeholder)

    def test_nested_calls(self, sentinel: Path) -> None:
        inner = name("builtins", "getattr") + name("os", "path") + short("join") + b"\x86R"
        partial = name("functools", "partial") + name("os", "system") + short(f"touch {sentinel}") + b"\x86R"
        for body in (
            inner + short("x") + b"\x85R",
            partial + b")R",
            name("builtins", "map") + partial + b"]" + b"\x86R",
        ):
            if body.endswith(partial + b")R") or body.startswith(inner):  # what a call returns cannot be called here
                with pytest.raises(FormatError, match=r"must be a whole pickle, got one that fails: .* not callable"):
                    pickles.load(b"\x80\x02" + body + b".")
            else:
                assert isinstance(pickles.load(b"\x80\x02" + body + b"."), pickles.Placeholder)

    @pytest.mark.parametrize(
        ("module", "attribute"),
        [("numpy", "core.multiarray._reconstruct"), ("torch", "_utils._rebuild_tensor_v2"),
         ("collections", "abc.sys.modules"),
         ("xlcore.pickles", "os.system"), ("xlcore.inert", "KNOWN"), ("collections ", "OrderedDict")],
    )  # fmt: skip
    @pytest.mark.parametrize("stacked", [False, True])
    def test_names_are_compared_whole(self, module: str, attribute: str, stacked: bool) -> None:
        body = short(module) + short(attribute) + b"\x93" if stacked else name(module, attribute)
        found = pickles.load(b"\x80\x04" + body + b")R.")
        assert isinstance(found, pickles.Placeholder)
        assert (found.module, found.name) == (module, attribute)
        with pytest.raises(FormatError, match="it was not imported"):
            pickles.load(b"\x80\x04" + body + b".", strict=True)

    @pytest.mark.parametrize(
        "what",
        [name("collections", "OrderedDict"), name("m", "Klass"), name("torch._utils", "_rebuild_tensor_v2"),
         name("torch", "FloatStorage"), name("numpy", "ndarray"), name("numpy", "dtype"), name("_codecs", "encode"),
         b"]", b"K\x01", short("x"), b")"],
    )  # fmt: skip
    @pytest.mark.parametrize(
        "state", [b"}" + short("__new__") + b"K\x01s", b"N}" + short("__setstate__") + b"K\x01s\x86", b"K\x01"]
    )
    def test_setting_state_changes_nothing_of_ours(self, what: bytes, state: bytes) -> None:
        with pytest.raises(FormatError):
            pickles.load(b"\x80\x02" + what + state + b"b.")
        assert pickles.load(b"\x80\x02" + name("collections", "OrderedDict") + b")R}K\x01K\x02sb.") == {}
        assert pickles.load(pickle.dumps(np.arange(3), 2))[2] == 2
        assert pickles.load(b"\x80\x02" + name("m", "Klass") + b")\x81K\x07b.").state == 7

    def test_state_of_a_placeholder_cannot_reach_its_class(self) -> None:
        body = name("m", "Klass") + b")\x81" + b"N}" + short("__class__") + b"K\x01s\x86b."
        found = pickles.load(b"\x80\x02" + body)
        assert type(found).__name__ == "Placeholder"
        assert found.attributes == {"__class__": 1}
        with pytest.raises(
            FormatError, match="a placeholder must stay as the file made it, got a new value for 'state'"
        ):
            found.state = 1
        with pytest.raises(FormatError, match="a class must stay as it is, got a new value for 'x'"):
            type(found).x = 1

    @pytest.mark.parametrize(
        "state",
        [b"(K\x01" + b"K\x02\x85" + b"K\x05" + b"\x89C\x08abcdefghtb", b"K\x01\x85b", b"}b"],
    )
    def test_state_of_an_array_is_checked(self, state: bytes) -> None:
        start = name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
        with pytest.raises(FormatError, match=r"the state of an array must be \(version, shape, dtype, order, bytes\)"):
            pickles.load(b"\x80\x03" + start + state + b".")

    @pytest.mark.parametrize("code", ["O", "O8", "V8", "S4", "U4", "f2", "i8,i8", "m8"])
    def test_types_of_arrays_are_few(self, code: str) -> None:
        with pytest.raises(FormatError, match=r"the type of an array must be i4, i8, f4 or f8"):
            pickles.load(b"\x80\x03" + name("numpy", "dtype") + short(code) + b"\x85R.")

    def test_object_arrays_are_refused(self) -> None:
        with pytest.raises(FormatError, match="the type of an array must be"):
            pickles.load(pickle.dumps(np.array([Hostile(os.getcwd)], dtype=object)))

    def test_array_must_have_its_bytes(self) -> None:
        good = pickle.dumps(np.arange(4, dtype="i8"), 3)
        shape = good.replace(b"K\x04\x85", b"K\x05\x85")
        with pytest.raises(FormatError, match=r"an array of shape \(5,\) must have 40 bytes, got 32"):
            pickles.load(shape)
        with pytest.raises(FormatError, match="the byte order of a type must be '<' or '>', got 'x'"):
            pickles.load(good.replace(b"\x00\x00\x00<", b"\x00\x00\x00x"))

    @pytest.mark.parametrize("codec", ["utf-8", "rot13", "base64", "zlib"])
    def test_only_one_codec(self, codec: str) -> None:
        with pytest.raises(FormatError, match=r"_codecs\.encode must be from text to latin1, got"):
            pickles.load(b"\x80\x02" + name("_codecs", "encode") + short("x") + short(codec) + b"\x86R.")
        with pytest.raises(FormatError, match=r"_codecs\.encode must have characters below U\+0100"):
            pickles.load(b"\x80\x02" + name("_codecs", "encode") + short("中") + short("latin1") + b"\x86R.")

    @pytest.mark.parametrize(
        "opcode",
        [b"i" + b"os\nsystem\n", b"(" + name("os", "system") + b"o", b"\x82\x01", b"\x83\x01\x00",
         b"\x84\x01\x00\x00\x00",          b"Pid\n", b"\x97", b"]\x98",
         b"I1\n", b"S'a'\n", b"Va\n", b"F1\n", b"L1L\n", b"p0\n", b"g0\n", b"(d", b"(l",
         b"0", b"1", b"2", b"\x8b\x04\x00\x00\x00\xff\xff\xff\xff", b"\x92", b"\x91", b"\x96", b"\xff", b"\x00"],
    )  # fmt: skip
    def test_refused_opcodes(self, opcode: bytes) -> None:
        with pytest.raises(FormatError, match=r"opcode 0x.. at byte \d+ must be one that data needs"):
            pickles.load(b"\x80\x02" + opcode + b".")

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "must have at least one byte, got an empty file"),
            (b"\x80\x02]", "must end with STOP, got 3 bytes without it; is the file cut off"),
            (b"\x80", "the pickle protocol must be 2 to 5, got nothing"),
            (b"\x80\x09N.", "the pickle protocol must be 2 to 5, got 09"),
            (b"\x80\x02X\xff\xff\xff\x7fabc.", "must end with STOP"),
            (b"\x80\x04\x8d" + b"\xff" * 8 + b".", "must end with STOP"),
            (b"\x80\x03B\xff\xff\xff\xff.", "must end with STOP"),
            (b"\x80\x02T\xff\xff\xff\xff.", "must end with STOP"),
            (b"\x80\x04\x95" + b"\xff" * 7 + b"\x00N.", "a frame must fit in the file, got a claim of"),
            (b"\x80\x02]r\xff\xff\xff\x7f.", "a memo index must be smaller than the pickle, got 2147483647"),
            (b"\x80\x02c" + b"a" * 2000 + b"\nb\n.", "the name of a global must be two lines of at most 1000 bytes"),
            (b"\x80\x02cos", "the name of a global must be two lines"),
            (b"\x80\x02.", "must be a whole pickle, got one that fails"),
            (b"\x80\x02h\x07.", "must be a whole pickle, got one that fails"),
            (b"\x80\x02a.", "must be a whole pickle, got one that fails"),
            (b"\x80\x02(", "must end with STOP"),
            (b"\x80\x02N\x85R.", "must be a whole pickle, got one that fails"),
            (b"\x80\x02U\x01\xff\x81.", "must be a whole pickle, got one that fails"),
            (b"\x80\x02X\x01\x00\x00\x00\xff.", "must be a whole pickle, got one that fails"),
            (b"\x80\x02NQ.", "a plain pickle must not refer to storages"),
        ],
    )
    def test_damaged_files(self, data: bytes, message: str, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.write_bytes(data)
        for source in (data, file):
            with pytest.raises(FormatError, match=message):
                pickles.load(source)

    def test_deep_nesting(self) -> None:
        lists = pickles.load(b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".")
        depth = 0
        while lists:
            lists, depth = lists[0], depth + 1
        assert depth == 199_999
        key = b"\x80\x02})" + b"\x85" * 49_999 + b"Ns."  # hashing it descends into it
        found: list[object] = []
        thread = threading.Thread(target=lambda: found.append(len(pickles.load(key))))
        thread.start()
        thread.join()
        assert found == [1]
        with pytest.raises(FormatError, match="a pickle must hold at most 50000 tuples, got more"):
            pickles.load(b"\x80\x02})" + b"\x85" * 60_000 + b"Ns.")

    @pytest.mark.parametrize("file", ["vocab.pkl", "vocab.bin"])
    def test_every_cut_is_an_error(self, file: str) -> None:
        data = (GOLDEN / file).read_bytes()
        for end in [*range(64), *range(64, len(data) - 1, 997)]:
            with pytest.raises(FormatError):
                pickles.load(data[:end])

    def test_random_damage_is_an_error_or_data(self) -> None:
        data = bytearray((GOLDEN / "vocab.pkl").read_bytes())
        random, refused = np.random.default_rng(0), 0
        for _ in range(300):
            damaged = bytearray(data)
            for place in random.integers(0, len(data), 3):
                damaged[place] = random.integers(0, 256)
            try:
                pickles.load(bytes(damaged))
            except FormatError:
                refused += 1
        assert 0 < refused < 300  # some damage shows, some only changes a letter; nothing else ever comes out
