"""Zips planned before their content is there: Python's own reader and checksums say whether they are right."""

import random
import zipfile
import zlib

import pytest

from conversion.formats import zips
from conversion.formats.base import lay, put
from conversion.formats.zips import Member, Zip, crc32, joined, opened
from xlcore import FormatError, pickles


def test_what_is_planned_is_what_python_reads(tmp_path):
    data = {"top/data/0": bytes(range(200)), "top/data/1": b"", "top/data/2": b"z" * 70}
    members = [Member("top/first", 3, b"abc"), *(Member(name, len(each), None, 64) for name, each in data.items())]
    plan = Zip([*members, Member("last", 5, b"hello", 8)])
    file = tmp_path / "x.zip"
    lay(file, plan.size, plan.pieces({}))
    with file.open("rb+") as stream:
        for name, each in data.items():
            assert plan.starts[name] % 64 == 0
            put(stream, [(plan.starts[name], each)])
        put(stream, plan.pieces({name: crc32(each) for name, each in data.items()}))
    assert file.stat().st_size == plan.size
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["top/first", *data, "last"]
        assert {name: archive.read(name) for name in data} == data
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_files_beyond_four_gigabytes_are_described_in_full(tmp_path):
    sizes = {"small": 10, "large": 5 << 30, "after": 20, "more": (1 << 32) - 1}
    plan = Zip([Member(name, size, None, 64) for name, size in sizes.items()])
    file = tmp_path / "x.zip"
    lay(file, plan.size, plan.pieces(dict.fromkeys(sizes, 7)))  # sparse: nothing but headers is written
    with file.open("rb+") as stream:
        put(stream, [(plan.starts["after"], b"x" * 20)])
        put(stream, plan.pieces({"after": zlib.crc32(b"x" * 20)}))
    with zipfile.ZipFile(file) as archive:
        assert {info.filename: info.file_size for info in archive.infolist()} == sizes
        assert archive.read("after") == b"x" * 20
        assert archive.getinfo("after").header_offset > 5 << 30
        with archive.open("large") as stream:  # opening reads the member's own header
            assert stream.read(3) == b"\0\0\0"


def test_more_members_than_two_bytes_can_count(tmp_path):
    plan = Zip([Member(f"m{number}", 0, b"") for number in range(70_000)])
    lay(tmp_path / "x.zip", plan.size, plan.pieces({}))
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert len(archive.infolist()) == 70_000


@pytest.mark.parametrize("length", [0, 1, 3, 64, 1000, 100_001])
def test_checksums_of_two_parts_join_to_that_of_the_whole(length):
    rng = random.Random(length)
    first, second = rng.randbytes(rng.randrange(200)), rng.randbytes(length)
    assert joined(zlib.crc32(first), zlib.crc32(second), length) == zlib.crc32(first + second)


def test_a_directory_that_claims_too_much_is_refused(tmp_path, monkeypatch):
    plan = Zip([Member(f"m{number}", 0, b"") for number in range(100)])
    file = tmp_path / "x.zip"
    lay(file, plan.size, plan.pieces({}))
    with opened(file) as archive:
        assert len(archive.namelist()) == 100
    monkeypatch.setattr(zips, "_READ", 3000)
    told = r"x\.zip: must be a whole zip, got one that fails: a claim of \d+ bytes for its directory$"
    with pytest.raises(FormatError, match=told), opened(file):
        pass
    monkeypatch.setattr(pickles, "_MAX_DIRECTORY", 3000)
    with pytest.raises(FormatError, match=r"^zip: the directory must have at most 3000 bytes, got a claim of more$"):
        pickles.load(file)
