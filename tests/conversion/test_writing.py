"""The engine: every byte in its place, whatever stops it; journal, staging folder, blocks."""

import contextlib
import errno
import hashlib
import json
import os
import resource
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from conversion import places, reading, writing
from conversion.blocks import Rounding, blocks, cast_into, copy_into, cuts, is_finite, sha256
from conversion.journal import Journal
from conversion.places import PAGE, Places
from conversion.staging import staged
from conversion.tables import WIDTH, size, table
from conversion.writing import fingerprint, write
from tests.conversion.raw_files import HEADER, arrays_of, pieces_of, writer_of
from xlcore import FormatError, WeightError

ROOT = Path(__file__).parents[2]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(destination: Path, arrays, *, mark="m", max_bytes=3000, finish=True, hook=lambda name: None, **keys):
    """Write arrays to a destination; return what the engine tells."""
    pieces = pieces_of(arrays, hook=hook)
    with staged(destination) as staging:
        written = write(staging, writer_of(pieces, max_bytes), pieces, mark, batch=keys.pop("batch", 0), **keys)
        if finish:
            staging.finish()
    return written


class Stop(BaseException):
    """What a kill is within one process: no `Exception`, so that the staging folder stays."""


def stop_at(name: str):
    """Return a hook that stops the engine before a tensor."""

    def hook(made: str) -> None:
        if made == name:
            raise Stop

    return hook


# -------------------------------------------------------------------------------------------------------- what it does


def test_every_tensor_lies_in_its_place(tmp_path):
    arrays = arrays_of()
    written = run(tmp_path / "out", arrays)
    places = writer_of(pieces_of(arrays), 3000).places
    assert len({place.file for place in places.values()}) > 3
    for name, array in arrays.items():
        with (tmp_path / "out" / places[name].file).open("rb") as stream:
            stream.seek(places[name].offset)
            assert stream.read(array.nbytes) == array.tobytes(), name
        assert written.sums[name] == zlib.crc32(array.tobytes())
        assert written.sha256[f"canonical {name}"] == hashlib.sha256(array.tobytes()).hexdigest()
    assert json.loads((tmp_path / "out" / "sums").read_text()) == written.sums
    assert (written.resumed, written.left_behind) == (0, False)
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize(("small", "most"), [(0, 1), (0, 256), (1 << 20, 3), (1000, 2)])
def test_however_many_are_written_at_a_time_the_bytes_are_the_same(tmp_path, monkeypatch, small, most):
    arrays = arrays_of(40, size=300)
    run(tmp_path / "whole", arrays)
    monkeypatch.setattr(writing, "SMALL", small)
    monkeypatch.setattr(writing, "_MOST", most)
    monkeypatch.setattr(places, "LEAST", 1000)
    run(tmp_path / "out", arrays, batch=5000)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_disk_that_fails_while_others_are_written_is_one_error(tmp_path, monkeypatch):
    true, count = Places.write, []

    def write(self, *arguments):
        count.append(1)
        if len(count) == 7:
            raise OSError(errno.EIO, "Input/output error")
        return true(self, *arguments)

    monkeypatch.setattr(writing, "SMALL", 0)
    monkeypatch.setattr(Places, "write", write)
    with pytest.raises(FormatError, match=r"out: must be writable, got Input/output error; nothing was written$"):
        run(tmp_path / "out", arrays_of(40))
    assert os.listdir(tmp_path) == []


def test_progress_counts_every_byte_once(tmp_path):
    arrays, counts = arrays_of(), []
    run(tmp_path / "out", arrays, advance=counts.append)
    assert sum(counts) == sum(array.nbytes for array in arrays.values())


def test_what_was_stopped_goes_on_and_ends_in_the_same_bytes(tmp_path):
    arrays = arrays_of()
    run(tmp_path / "whole", arrays)
    made, counts = [], []
    with pytest.raises(Stop):
        run(tmp_path / "out", arrays, hook=stop_at("t7"))
    assert sorted(os.listdir(tmp_path)) == [".out.converting", "whole"]
    written = run(tmp_path / "out", arrays, hook=made.append, advance=counts.append)
    assert sorted(made) == ["t10", "t11", "t7", "t8", "t9"]
    assert written.resumed == counts[0] == sum(arrays[f"t{number}"].nbytes for number in range(7))
    assert sum(counts) == sum(array.nbytes for array in arrays.values())
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert written.sha256 == run(tmp_path / "again", arrays).sha256


def test_work_for_another_source_or_plan_is_thrown_away(tmp_path):
    with pytest.raises(Stop):
        run(tmp_path / "out", arrays_of(seed=5), mark="other", hook=stop_at("t7"))
    written = run(tmp_path / "out", arrays_of())
    assert (written.resumed, written.left_behind) == (0, True)
    run(tmp_path / "whole", arrays_of())
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize("harm", ["file gone", "file short", "content gone", "journal cut", "journal spoilt"])
def test_a_staging_folder_that_is_not_as_the_journal_says_is_no_danger(tmp_path, harm):
    run(tmp_path / "whole", arrays_of())
    with pytest.raises(Stop):
        run(tmp_path / "out", arrays_of(), hook=stop_at("t9"))
    content, journal = tmp_path / ".out.converting" / "content", tmp_path / ".out.converting" / "journal"
    text = journal.read_bytes()
    if harm == "file gone":
        (content / "data-0").unlink()
    elif harm == "file short":
        os.truncate(content / "data-0", HEADER + 1)
    elif harm == "content gone":
        content.rename(tmp_path / "elsewhere")
    elif harm == "journal cut":
        journal.write_bytes(text[: len(text) * 2 // 3])
    else:
        journal.write_bytes(text[:300] + bytes([text[300] ^ 1]) + text[301:])
    run(tmp_path / "out", arrays_of())
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_finished_content_that_did_not_reach_its_place_goes_there(tmp_path):
    run(tmp_path / "whole", arrays_of())
    with staged(tmp_path / "out") as staging:
        pieces = pieces_of(arrays_of())
        write(staging, writer_of(pieces, 3000), pieces, "m")
        raised = staging.content / "sums"
        assert raised.is_file()
        made = []
        again = write(staging, writer_of(pieces, 3000), pieces_of(arrays_of(), hook=made.append), "m")
        assert (made, again.resumed) == ([], sum(piece.entry.nbytes for piece in pieces))
        staging.finish()
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_tensor_that_is_not_as_planned_is_an_error(tmp_path):
    pieces, others = pieces_of({"a": np.zeros(3, "float32")}), pieces_of({"a": np.zeros(4, "float32")})
    message = r"^a: must be as planned, float32 \[3\], got float32 \[4\]$"
    with pytest.raises(FormatError, match=message), staged(tmp_path / "out") as staging:
        write(staging, writer_of(pieces), [writing.Piece(pieces[0].entry, others[0].make)], "m")
    assert os.listdir(tmp_path) == []


# ------------------------------------------------------------------------------------------------------ what can fail


def test_a_second_process_is_kept_out(tmp_path):
    message = "out: must be written by one process at a time, got another at it$"
    with staged(tmp_path / "out"), pytest.raises(FormatError, match=message), staged(tmp_path / "out"):
        raise AssertionError("not reached")
    run(tmp_path / "out", arrays_of())
    assert os.listdir(tmp_path) == ["out"]


def test_a_lock_taken_in_the_moment_when_the_folder_goes_is_taken_anew(tmp_path, monkeypatch):
    import fcntl

    true, calls = fcntl.flock, []

    def flock(handle, how):
        calls.append(handle)
        if len(calls) == 1:
            (tmp_path / ".out.converting" / "journal").unlink()
        true(handle, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    run(tmp_path / "out", arrays_of())
    assert len(calls) == 2
    assert os.listdir(tmp_path) == ["out"]


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["posix_fallocate", "pwrite", "fdatasync", "fsync"])
def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path, monkeypatch, step):
    monkeypatch.setattr(os, step, full)
    wanted = r"out: the disk must have room for \d+\.\d KB, got .*B; nothing was written$"
    with pytest.raises(FormatError, match=wanted):
        run(tmp_path / "deep" / "out", arrays_of())
    assert os.listdir(tmp_path) == []


def test_a_disk_that_is_really_full(tmp_path):
    """The limit of the system on a file's size stands for the full disk: the kernel itself refuses."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(FormatError, match=r"out: must be writable, got File too large; nothing was written$"):
            run(tmp_path / "out", arrays_of(), max_bytes=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []


def test_a_destination_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(FormatError, match=r"out: must be writable, got File exists; nothing was written$"):
        run(tmp_path / "file" / "out", arrays_of())
    assert tree(tmp_path) == {"file": b"x"}


def test_a_file_system_that_sets_no_room_aside_is_written_all_the_same(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    run(tmp_path / "whole", arrays_of())
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    run(tmp_path / "out", arrays_of())
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize("whose", ["a link", "another's"])
def test_a_staging_folder_of_somebody_else_is_not_believed(tmp_path, monkeypatch, whose):
    (tmp_path / "elsewhere").mkdir()
    if whose == "a link":
        (tmp_path / ".out.converting").symlink_to(tmp_path / "elsewhere")
    else:
        (tmp_path / ".out.converting").mkdir()
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(FormatError, match=r"\.out\.converting: must be a folder of your own, got another's; remove it"):
        run(tmp_path / "out", arrays_of())
    assert sorted(os.listdir(tmp_path)) == [".out.converting", "elsewhere"]


def test_an_error_while_a_tensor_is_made_leaves_nothing(tmp_path):
    def broken(name: str) -> None:
        raise WeightError("source: t: must be finite, got NaN")

    with pytest.raises(WeightError):
        run(tmp_path / "out", arrays_of(), hook=broken)
    assert os.listdir(tmp_path) == []


def test_an_interrupt_keeps_what_is_written(tmp_path):
    def interrupt(name: str) -> None:
        if name == "t9":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", arrays_of(), hook=interrupt, batch=1 << 30)
    made = []
    run(tmp_path / "out", arrays_of(), hook=made.append)
    assert sorted(made) == ["t10", "t11", "t9"]


# ----------------------------------------------------------------------------------------------------------- journal


def open_journal(path: Path) -> Journal:
    return Journal(os.open(path, os.O_RDWR | os.O_CREAT))


def test_a_journal_keeps_lines_and_order(tmp_path):
    open_journal(tmp_path / "j").add([{"a": 1}, {"b": "\n\u2028 \x85"}])
    again = open_journal(tmp_path / "j")
    again.add([{"c": [1, None]}])
    assert again.records == open_journal(tmp_path / "j").records == [{"a": 1}, {"b": "\n\u2028 \x85"}, {"c": [1, None]}]
    again.clear()
    assert open_journal(tmp_path / "j").records == []


def test_a_torn_line_is_no_line_wherever_it_is_torn(tmp_path):
    open_journal(tmp_path / "j").add([{"number": number} for number in range(3)])
    whole = (tmp_path / "j").read_bytes()
    ends = [end + 1 for end, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        (tmp_path / "torn").write_bytes(whole[:cut] + b"\x00" * 5)
        journal = open_journal(tmp_path / "torn")
        assert journal.records == [{"number": number} for number in range(sum(end <= cut for end in ends))]
        journal.add([{"more": 1}])
        assert open_journal(tmp_path / "torn").records == journal.records


def test_a_spoilt_line_ends_the_journal(tmp_path):
    open_journal(tmp_path / "j").add([{"number": number} for number in range(3)])
    whole = (tmp_path / "j").read_bytes()
    start = whole.index(b"\n") + 1
    for place in range(start, whole.index(b"\n", start) + 1):
        (tmp_path / "j").write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert open_journal(tmp_path / "j").records == [{"number": 0}], place


def test_a_fingerprint_changes_with_every_fact():
    facts = [("a", [1, 2], {"x": "y"}), ("a", [1, 3], {"x": "y"}), ("a", [1, 2], {"x": "z"}), ("b", [1, 2], {"x": "y"})]
    assert len({fingerprint(*each) for each in facts}) == 4
    assert fingerprint("a", {"x": 1, "y": 2}) == fingerprint("a", {"y": 2, "x": 1})


# ------------------------------------------------------------------------------------------------------------ blocks

TURNED = [
    ((1100, 600), (1, 0)), ((1101, 603), (1, 0)), ((64, 1030, 2), (1, 0, 2)), ((1030, 8, 3), (2, 1, 0)),
    ((6, 5, 4), (0, 1, 2)), ((6, 5, 4), (2, 0, 1)), ((6, 5, 4), (1, 0, 2)), ((6, 5, 4), (2, 1, 0)),
    ((70, 4200), (1, 0)), ((7, 1), (1, 0)), ((1, 1, 3), (2, 0, 1)), ((), ()), ((0, 3), (1, 0)),
    ((2, 3, 4, 5), (3, 1, 0, 2)), ((9,), (0,)),
]  # fmt: skip


@pytest.mark.parametrize("most", [40, 1000, 1 << 20])
@pytest.mark.parametrize(("shape", "axes"), TURNED)
def test_blocks_are_the_bytes_in_order(shape, axes, most):
    array = np.random.default_rng(0).standard_normal(shape).astype("float32").transpose(axes)
    found = [block.tobytes() for block in blocks(array, most)]
    assert b"".join(found) == array.tobytes()
    assert all(len(block) <= most for block in found)


def test_blocks_of_an_array_in_order_are_no_copies():
    array = np.zeros((50, 3))
    assert all(np.shares_memory(np.asarray(block), array) for block in blocks(array, 100))


@pytest.mark.parametrize("dtype", ["uint8", "bfloat16", "float32", "float64", "complex128", "bool"])
@pytest.mark.parametrize(("shape", "axes"), TURNED)
def test_a_turned_array_is_copied_right(shape, axes, dtype):
    """Whatever the size of its numbers: small ones are turned several at a time."""
    array = np.random.default_rng(0).integers(0, 2, (*shape, 2)).astype(np.dtype(dtype))[..., 1].transpose(axes)
    for given in (array, np.ascontiguousarray(array.T).T, array[::-1] if array.ndim else array):
        to = np.zeros(given.shape, given.dtype)
        copy_into(to, given)
        assert to.tobytes() == given.tobytes()
        assert sha256(given) == hashlib.sha256(given.tobytes()).hexdigest()


@pytest.mark.parametrize("shape", [(3, 4, 5), (7,), (1, 9), (5, 1), (0, 2), (2, 0)])
@pytest.mark.parametrize("most", [1, 3, 5, 20, 100])
def test_cuts_cover_everything_once(shape, most):
    counts = np.zeros(shape, int)
    for cut in cuts(shape, most):
        assert counts[cut].size <= most
        counts[cut] += 1
    assert (counts == 1).all()


def cast(values, dtype: str):
    given = np.asarray(values)
    to = np.empty(given.shape, dtype)
    return to, cast_into(to, given, "layer.weight")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_cast_tells_the_largest_rounding(dtype, monkeypatch):
    monkeypatch.setattr("conversion.blocks._CAST", 7)
    values = np.random.default_rng(0).standard_normal((5, 9)) * [[1], [2], [30], [4], [5]]
    to, rounding = cast(values.T, dtype)
    assert np.array_equal(to, values.T.astype(dtype))
    assert rounding.largest == pytest.approx(np.abs(to.astype("float64") - values.T).max())
    assert rounding.lost == 0


def test_a_cast_up_rounds_nothing_and_a_copy_is_exact():
    for given, dtype in (("float16", "float32"), ("bfloat16", "float32"), ("float32", "float64")):
        to, rounding = cast(np.linspace(-3, 3, 50).astype(given), dtype)
        assert rounding == Rounding()
        assert np.array_equal(to.astype(given), np.linspace(-3, 3, 50).astype(given))
    values = np.array([np.nan, -0.0, np.inf, 1e-45], "float32")
    assert cast(values, "float32")[0].tobytes() == values.tobytes()


def test_values_that_become_nothing_are_counted():
    assert cast(np.array([1e-9, 0.0, -1e-10, 1.0]), "float16")[1].lost == 2


def test_what_a_dtype_cannot_hold_is_an_error_that_names_the_tensor():
    message = r"^layer.weight: values must fit into float16, got 70000; choose --dtype bfloat16 or float32$"
    with pytest.raises(WeightError, match=message):
        cast(np.array([[1.0, -7e4]], "float32"), "float16")
    to, rounding = cast(np.array([np.inf, -np.inf, np.nan, 1.0], "float32"), "float16")
    assert np.isinf(to[:2]).all()
    assert np.isnan(to[2])
    assert rounding.largest == 0.0


def test_a_scalar_is_cast():
    to, rounding = cast(np.array(1 / 3), "float16")
    assert (to.shape, to) == ((), np.float16(1 / 3))
    assert rounding.largest > 0


# ------------------------------------------------------------------------------------------------------------ places


@pytest.fixture(params=["past the cache", "through it", "refused when opened", "refused when written"])
def way(request, monkeypatch):
    """Each way in which a file system takes large writes."""
    monkeypatch.setattr(places, "ROOM", 3 * PAGE)
    monkeypatch.setattr(places, "LEAST", 1 << 40 if request.param == "through it" else 1)
    true_open, true_write, refused = os.open, os.pwrite, set()

    def open_file(path, flags, *rest):
        if flags & os.O_DIRECT and request.param == "refused when opened":
            raise OSError(errno.EINVAL, "Invalid argument")
        handle = true_open(path, flags, *rest)
        if flags & os.O_DIRECT and request.param == "refused when written":
            refused.add(handle)
        return handle

    def write_file(handle, data, offset):
        if handle in refused:
            refused.discard(handle)
            raise OSError(errno.EINVAL, "Invalid argument")
        return true_write(handle, data, offset)

    monkeypatch.setattr(os, "open", open_file)
    monkeypatch.setattr(os, "pwrite", write_file)
    return request.param


def test_bytes_lie_where_they_belong_whatever_offset_and_length(tmp_path, way):
    rng = np.random.default_rng(0)
    size = 40 * PAGE + 77
    for number in range(40):
        offset = int(rng.integers(0, 5 * PAGE)) if number % 4 else PAGE * int(rng.integers(0, 4))
        length = int(rng.integers(0, size - offset)) if number % 3 else PAGE * int(rng.integers(1, 20))
        data = rng.integers(1, 256, length, dtype="uint8")
        file = tmp_path / f"file-{number}"
        file.write_bytes(bytes(size))
        with contextlib.closing(Places(tmp_path)) as writer:
            writer.write(file.name, offset, length, blocks(data, int(rng.integers(1, 5 * PAGE))))
        wanted = bytearray(size)
        wanted[offset : offset + length] = data.tobytes()
        assert file.read_bytes() == bytes(wanted), (offset, length)


def test_neighbours_in_one_page_do_not_disturb_each_other(tmp_path, way):
    lengths = [5, PAGE - 5, 3 * PAGE + 1, 17, 10 * PAGE, 9, 2 * PAGE - 3]
    data = [np.full(length, number + 1, "uint8") for number, length in enumerate(lengths)]
    for order in (range(len(lengths)), reversed(range(len(lengths)))):
        (tmp_path / "file").write_bytes(bytes(sum(lengths)))
        with contextlib.closing(Places(tmp_path)) as writer:
            for number in order:
                writer.write("file", sum(lengths[:number]), lengths[number], blocks(data[number], PAGE))
        assert (tmp_path / "file").read_bytes() == b"".join(each.tobytes() for each in data)


def test_an_error_of_the_disk_past_the_cache_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "LEAST", 1)
    (tmp_path / "file").write_bytes(bytes(4 * PAGE))
    true = os.pwrite

    def write_file(handle, data, offset):
        if len(data) >= PAGE:
            raise OSError(errno.EIO, "Input/output error")
        return true(handle, data, offset)

    monkeypatch.setattr(os, "pwrite", write_file)
    with pytest.raises(OSError, match="Input/output error"), contextlib.closing(Places(tmp_path)) as writer:
        writer.write("file", 3, 3 * PAGE, blocks(np.ones(3 * PAGE, "uint8")))


# ------------------------------------------------------------------------------------------------------------ tables


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 KB"), (81048, "81.0 KB"), (999_499, "999 KB"), (999_950, "1.0 MB"),
     (7e9, "7.0 GB"), (40e9, "40.0 GB"), (123e12, "123 TB"), (5e15, "5000 TB")],
)  # fmt: skip
def test_sizes_read_as_people_write_them(count, text):
    assert size(count) == text


def test_a_table_fits_whatever_stands_in_it():
    rows = [("a" * 200, 5, "b" * 90), ("x", 12345, "\x1b[31m")]
    lines = table(("first", "count", "last"), rows, "count")
    assert all(len(line) <= WIDTH and line.isascii() and line.isprintable() for line in lines)
    assert [line.split()[1] for line in lines] == ["count", "-----", "5", "12345"]
    assert table(("a",), []) == ["a", "-"]


# ----------------------------------------------------------------------------------------------------------- reading


@pytest.fixture(params=["past the cache", "cached", "no way past", "nobody can tell"])
def reading_way(request, monkeypatch):
    """Each way in which a large run is read."""
    monkeypatch.setattr(reading, "LEAST", 1)
    monkeypatch.setattr(reading, "_LEAST_SPARE", 2 * PAGE)
    if request.param != "nobody can tell":
        monkeypatch.setattr(reading, "_is_cached", lambda *_: request.param == "cached")
    else:
        monkeypatch.setattr(reading, "_LIBC", object())
    if request.param == "no way past":
        monkeypatch.delattr(os, "O_DIRECT")
    return request.param


def test_runs_are_read_whatever_offset_and_length(tmp_path, reading_way):
    rng = np.random.default_rng(0)
    content = rng.integers(0, 256, 30 * PAGE + 123, dtype="uint8")
    content.tofile(tmp_path / "file")
    with (tmp_path / "file").open("rb") as stream:
        for number in range(60):
            offset = int(rng.integers(0, content.size)) // (16 if number % 3 else 1) * (16 if number % 3 else 1)
            count = int(rng.integers(1, content.size + 50 - offset))
            found = reading.read_run(stream.fileno(), tmp_path / "file", offset, count)
            assert found.tobytes() == content[offset : offset + count].tobytes(), (offset, count)


def test_memory_is_used_again_when_nobody_has_it(monkeypatch):
    monkeypatch.setattr(reading, "_LEAST_SPARE", PAGE)
    monkeypatch.setattr(reading, "_spare", [])
    first = reading.room(10 * PAGE)
    address, view = first.ctypes.data, first[6:].view("uint16")[::2]
    del first
    other = reading.room(10 * PAGE)
    assert other.ctypes.data != address, "a view still has it"
    del view
    again = reading.room(9 * PAGE)
    assert again.ctypes.data == address
    assert again.ctypes.data % PAGE == 0
    assert again.nbytes == 9 * PAGE
    del again, other
    assert [len(each) for each in reading._spare] == [10 * PAGE, 10 * PAGE]


def kept() -> list[int]:
    """Return the pages of memory that nobody has."""
    return [len(each) // PAGE for each in reading._spare]


def test_what_is_kept_unused_is_little(monkeypatch):
    monkeypatch.setattr(reading, "_LEAST_SPARE", 2 * PAGE)
    monkeypatch.setattr(reading, "_SPARE", 50 * PAGE)
    monkeypatch.setattr(reading, "_spare", [])
    held = [reading.room(count * PAGE) for count in (30, 15, 10, 4, 1)]
    del held
    assert kept() == [30, 15, 4], "the largest that fit together, and nothing tiny"
    taken = reading.room(12 * PAGE)
    assert kept() == [30, 4], "the smallest that will do"
    large = reading.room(100 * PAGE)
    assert kept() == [], "before there is much more, all goes"
    del taken, large
    assert kept() == [100], "what is larger is kept alone"
    small = reading.room(5 * PAGE)
    assert kept() == [], "until it does not do"
    assert small.nbytes == 5 * PAGE
    again = reading.room(3 * PAGE)
    del small
    assert kept() == [5]
    del again


def test_threads_never_have_the_same_memory(monkeypatch):
    monkeypatch.setattr(reading, "_LEAST_SPARE", PAGE)
    wrong = []

    def work(mark: int) -> None:
        for count in range(300):
            array = reading.room((1 + count % 7) * PAGE)
            array[:] = mark
            time.sleep(0)
            wrong.append(mark) if (array != mark).any() else None

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_is_in_the_cache_is_known(tmp_path):
    (tmp_path / "file").write_bytes(bytes(64 * PAGE))
    with (tmp_path / "file").open("rb") as stream:
        assert reading._is_cached(stream.fileno(), 5, 60 * PAGE)
        assert reading._is_cached(stream.fileno(), 5, 80 * PAGE), "the file ends before: nobody can tell"
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        cached = reading._is_cached(stream.fileno(), 5, 60 * PAGE)
    if cached:
        pytest.skip("this file system keeps what it is told to let go")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int32"])
def test_what_is_finite_is_told_right(dtype):
    for turned in (False, True):
        array = np.linspace(-1e4, 1e4, 35).astype(dtype).reshape(5, 7)
        array = array.T if turned else array
        assert is_finite(array)
        assert is_finite(array[2, 3])
        for value in (np.nan, np.inf, -np.inf) if dtype != "int32" else ():
            array[3, 4] = value
            assert not is_finite(array)
            assert not is_finite(array[3, 4])
