"""A folder is replaced whole or not at all, whatever fails in between."""

import builtins
import contextlib
import ctypes
import errno
import io
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from conversion import folder as module
from conversion.folder import replaced
from conversion.formats.safetensors import OURS, Entry, write
from xlcore import FormatError

ROOT = Path(__file__).parents[2]
NEW = {"config.json": b"new config", "model.safetensors": b"new weights"}


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return every file below a folder with its content, folders with None."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def old_folder(parent: Path) -> Path:
    """Make a folder with weights of ours and other things in it."""
    folder = parent / "model"
    (folder / "runs" / "deep").mkdir(parents=True)
    (folder / "config.json").write_bytes(b"old config")
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"old weights")
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"older weights")
    (folder / "model.safetensors.index.json").write_bytes(b"{}")
    (folder / "vocab.txt").write_bytes(b"words")
    (folder / "runs" / "deep" / "log").write_bytes(b"log")
    (folder / "link").symlink_to("vocab.txt")
    return folder


@pytest.fixture
def folder(tmp_path):
    return old_folder(tmp_path)


def save(folder: Path, files=NEW) -> None:
    with replaced(folder, drop=lambda name: bool(OURS.fullmatch(name))) as staging:
        for name, content in files.items():
            with (staging / name).open("wb") as stream:
                stream.write(content[:3])
                stream.write(content[3:])


AFTER = {
    **NEW,
    "vocab.txt": b"words",
    "link": b"words",
    "runs": None,
    "runs/deep": None,
    "runs/deep/log": b"log",
}


# ------------------------------------------------------------------------------------------------------ what happens


def test_weights_are_replaced_and_everything_else_stays(folder):
    save(folder)
    assert tree(folder) == AFTER
    assert (folder / "link").is_symlink()
    assert os.listdir(folder.parent) == ["model"]


def test_a_new_folder_appears_with_its_parents(tmp_path):
    save(tmp_path / "deep" / "er" / "model")
    assert tree(tmp_path / "deep" / "er" / "model") == NEW
    assert os.listdir(tmp_path / "deep" / "er") == ["model"]


def test_a_folder_is_as_open_as_the_one_that_it_replaces(folder):
    folder.chmod(0o750)
    save(folder)
    assert folder.stat().st_mode & 0o777 == 0o750


def test_a_new_folder_is_as_open_as_any_other(tmp_path):
    (tmp_path / "usual").mkdir()
    save(tmp_path / "model")
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "model").write_bytes(b"x")
    with pytest.raises(FormatError, match=r"model: must be a folder, or not exist yet, got a file$"):
        save(tmp_path / "model")
    assert tree(tmp_path) == {"model": b"x"}


def test_a_link_to_a_folder_stays_a_link(folder):
    link = folder.parent / "latest"
    link.symlink_to(folder)
    save(link)
    assert link.is_symlink()
    assert tree(folder) == AFTER


def test_the_current_folder_can_be_saved_into(folder, monkeypatch):
    monkeypatch.chdir(folder)
    save(Path("."))
    assert Path("config.json").is_file()
    assert Path("config.json").read_bytes() == b"new config"
    assert tree(folder) == AFTER


@pytest.mark.parametrize("inner", [".", "runs"])
def test_the_folder_that_a_shell_is_in_stays_the_same_folder(folder, monkeypatch, inner):
    number, here = folder.stat().st_ino, folder / inner
    monkeypatch.chdir(here)
    save(folder)
    assert tree(folder) == AFTER
    assert folder.stat().st_ino == number
    assert Path.cwd() == here
    assert os.listdir(folder.parent) == ["model"]


def test_what_others_make_while_a_folder_is_replaced_stays(folder, monkeypatch):
    """A training run writes its logs while a model is saved into the same folder."""
    true = module._exchange

    def exchange(old, new):
        (old / "made meanwhile").write_bytes(b"1")
        (old / "runs" / "deep" / "made meanwhile").write_bytes(b"2")
        (old / "config.json").write_bytes(b"not ours")
        true(old, new)

    monkeypatch.setattr(module, "_exchange", exchange)
    save(folder)
    assert tree(folder) == {**AFTER, "made meanwhile": b"1", "runs/deep/made meanwhile": b"2"}


def test_a_current_folder_that_is_gone_is_in_nobodys_way(folder, monkeypatch):
    gone = folder.parent / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    save(folder)
    os.chdir(folder)  # so that pytest has one to come back from
    assert tree(folder) == AFTER


def test_a_folder_is_put_onto_an_empty_one_and_onto_no_other(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "file").write_bytes(b"x")
    before = tree(folder)
    with pytest.raises(OSError, match="not empty"):
        module.become(tmp_path / "made", folder)
    assert tree(folder) == before
    module.become(tmp_path / "made", tmp_path / "empty")
    assert tree(tmp_path / "empty") == {"file": b"x"}


def test_without_an_exchange_in_one_step_the_result_is_the_same(folder, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    save(folder)
    assert tree(folder) == AFTER
    assert os.listdir(folder.parent) == ["model"]


def test_without_links_files_are_copied(folder, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    save(folder)
    assert tree(folder) == AFTER


def test_what_stays_is_not_the_old_file_under_a_new_name_only(folder):
    """The link that a save makes to a kept file goes with the old folder."""
    save(folder)
    assert (folder / "vocab.txt").stat().st_nlink == 1


def test_an_error_of_the_writer_passes_through(folder):
    before = tree(folder.parent)
    with pytest.raises(TypeError, match="not subscriptable"):
        save(folder, {"config.json": b"half a model", "model.safetensors": None})
    assert tree(folder.parent) == before


# --------------------------------------------------------------------------------------------------- what can fail


class Faults:
    """Fails the n-th step that touches the disk, once."""

    def __init__(self, monkeypatch, error: BaseException) -> None:
        self.error, self.left, self.happened = error, 0, False
        for owner, name in (
            (os, "fsync"), (os, "link"), (os, "rename"), (os, "mkdir"), (os, "chmod"), (io, "open"),
        ):  # fmt: skip
            monkeypatch.setattr(owner, name, self._guarded(getattr(owner, name)))

    def arm(self, number: int) -> None:
        self.left, self.happened = number, False

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.happened = True
            raise self.error

    def _guarded(self, function):
        def guarded(*arguments, **keys):
            self.step()
            result = function(*arguments, **keys)
            return Stream(result, self) if function is builtins.open else result

        return guarded


class Stream:
    """An open file whose every write is a step."""

    def __init__(self, stream, faults: Faults) -> None:
        self._stream, self._faults = stream, faults

    def write(self, data):
        self._faults.step()
        return self._stream.write(data)

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stream.close()


ERRORS = [OSError(errno.EIO, "disk gone"), KeyboardInterrupt()]


def states_after_faults(tmp_path: Path, monkeypatch, error: BaseException, make) -> dict[int, tuple[Path, dict]]:
    """Save once for every step that can fail, each time with another failing; return folder and tree after each."""
    faults, states = Faults(monkeypatch, error), {}
    for number in range(1, 100):
        faults.arm(0)
        parent = tmp_path / str(number)
        parent.mkdir()
        folder = make(parent)
        faults.arm(number)
        with contextlib.suppress(type(error), FormatError):
            save(folder)
        if not faults.happened:
            return states
        faults.arm(0)
        states[number] = folder, tree(folder)
    raise AssertionError("a save must end")


@pytest.mark.parametrize("error", ERRORS, ids=["disk", "interrupt"])
@pytest.mark.parametrize("exchange", [True, False], ids=["one step", "two steps"])
def test_whichever_step_fails_the_folder_is_whole(tmp_path, monkeypatch, error, exchange):
    if not exchange:
        monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    (tmp_path / "before").mkdir()
    before = tree(old_folder(tmp_path / "before"))
    states = states_after_faults(tmp_path, monkeypatch, error, old_folder)
    neither = [number for number, (_, found) in states.items() if found not in (before, AFTER)]
    debris = [number for number, (folder, _) in states.items() if os.listdir(folder.parent) != ["model"]]
    assert (neither, debris) == ([], []), f"of {len(states)} steps"
    assert sum(found == before for _, found in states.values()) >= 10


@pytest.mark.parametrize("error", ERRORS, ids=["disk", "interrupt"])
def test_whichever_step_fails_a_new_folder_is_whole_or_not_there(tmp_path, monkeypatch, error):
    states = states_after_faults(tmp_path, monkeypatch, error, lambda parent: parent / "model")
    for number, (folder, found) in states.items():
        assert found in ({}, NEW), f"step {number}"
        assert os.listdir(folder.parent) == (["model"] if found else []), f"step {number}"
    assert sum(found == {} for _, found in states.values()) >= 8


def test_a_full_disk_is_one_clear_error(folder, monkeypatch):
    before = tree(folder.parent)
    faults = Faults(monkeypatch, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    faults.arm(5)  # a write
    with pytest.raises((OSError, FormatError)) as full:
        save(folder)
    faults.arm(0)
    assert "No space left on device" in str(full.value)
    assert str(folder) in str(full.value), "the message must say which folder"
    assert tree(folder.parent) == before


def run_child(script: str, *arguments: object) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_limit_of_the_system_in_the_middle_of_a_write_leaves_the_old_folder(folder):
    before = tree(folder.parent)
    child = run_child(
        """
        import resource, sys
        from pathlib import Path
        import numpy as np
        from conversion.folder import replaced
        from conversion.formats.safetensors import Entry, write
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        with replaced(Path(sys.argv[1]), drop=lambda name: True) as staging:
            write(staging, [Entry("x", (10**6,), np.dtype("float32"))], {"x": lambda: np.ones(10**6)}, 10**9)
        """,
        folder,
    )
    printed, _ = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "File too large" in printed
    assert tree(folder.parent) == before


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_folder(folder):
    before = tree(folder)
    child = run_child(
        """
        import sys, time
        from pathlib import Path
        import numpy as np
        from conversion.folder import replaced
        from conversion.formats.safetensors import Entry, write
        def second():
            print("half way", flush=True)
            time.sleep(60)
        entries = [Entry(name, (1000,), np.dtype("float32")) for name in "ab"]
        with replaced(Path(sys.argv[1]), drop=lambda name: True) as staging:
            write(staging, entries, {"a": lambda: np.ones(1000), "b": second}, 10)
        """,
        folder,
    )
    assert child.stdout.readline() == "half way\n"
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    assert tree(folder) == before
    save(folder)
    assert tree(folder) == AFTER


def test_a_kill_at_any_moment_leaves_one_whole_folder(folder):
    script = """
        import sys
        from pathlib import Path
        from conversion.folder import replaced
        for number in range(10**9):
            with replaced(Path(sys.argv[1]), drop=lambda name: name[0] == "m") as staging:
                for name in "mno":
                    (staging / name).write_text(str(number % 10) * 10_000)
            if number == 3:
                print("running", flush=True)
    """
    for wait in (0.0, 0.003, 0.011, 0.024):
        child = run_child(script, folder)
        assert child.stdout.readline() == "running\n"
        threading.Event().wait(wait)
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=60)
        contents = [(folder / name).read_text() for name in "mno"]
        assert len(set(contents)) == 1
        assert contents[0] == contents[0][0] * 10_000
        assert (folder / "vocab.txt").read_bytes() == b"words"
        assert (folder / "runs" / "deep" / "log").read_bytes() == b"log"


def test_many_writers_leave_one_whole_folder(folder):
    def write_often(mark: str) -> None:
        for _ in range(10):
            save(folder, {"config.json": mark.encode() * 50, "model.safetensors": mark.encode() * 90})

    writers = [threading.Thread(target=write_often, args=(mark,)) for mark in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = tree(folder)
    assert set(found["config.json"]) == set(found["model.safetensors"])
    assert os.listdir(folder.parent) == ["model"]


def test_stale_shards_vanish_when_fewer_are_written(tmp_path):
    arrays = {name: np.full(100, number, "float32") for number, name in enumerate("abcd")}
    entries = [Entry(name, (100,), np.dtype("float32")) for name in arrays]
    readers = {name: lambda array=array: array for name, array in arrays.items()}
    for most, expected in ((400, 5), (800, 3), (10_000, 1)):
        with replaced(tmp_path / "model", drop=lambda name: bool(OURS.fullmatch(name))) as staging:
            write(staging, entries, readers, most)
        assert len(os.listdir(tmp_path / "model")) == expected
