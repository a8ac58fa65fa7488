"""One side of a comparison, in a process of its own: it takes jobs, and answers with arrays.

`python -m xl_torch.probe` and `python -m xl_tf.probe` speak this. A job is a folder that holds `job.json` and
`in.npz`; the answer is `out.npz` and `out.json` beside them. Folders come as lines on standard input; a line of JSON
goes back for each: `{}`, or `{"error": ...}`.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import numpy as np

from xlcore.errors import ParityError, XLError

Array = np.ndarray[Any, Any]


@dataclass
class Job:
    """What a side is asked to compute.

    Attributes:
        model: the class, as `module:Class`.
        config: the keys of its config.json.
        dtype: `float64`, `float32`, `bfloat16` or `float16`.
        mode: `eager`; `compile` in PyTorch; `graph` or `xla` in Keras.
        device: such as `cpu` or `cuda`.
        tasks: among `static`, `forward`, `gradients`, `training`, `tokens`, `trace`.
        steps, rate: of training by plain gradient descent.
        arrays: `weights/<canonical name>` and `inputs/<case>/<argument>`, lists as `mems.0`, `mems.1`.
    """

    model: str
    config: dict[str, Any]
    dtype: str = "float64"
    mode: str = "eager"
    device: str = "cpu"
    tasks: tuple[str, ...] = ("forward",)
    steps: int = 10
    rate: float = 0.05
    arrays: dict[str, Array] = field(default_factory=dict)

    def weights(self) -> dict[str, Array]:
        """Return the parameters by canonical name."""
        return self._under("weights/")

    def cases(self) -> dict[str, dict[str, Any]]:
        """Return the inputs of every case by argument, lists put together."""
        found: dict[str, dict[str, Any]] = {}
        for name, array in self._under("inputs/").items():
            case, _, argument = name.partition("/")
            argument, _, number = argument.partition(".")
            inputs = found.setdefault(case, {})
            if number:
                inputs.setdefault(argument, []).append(array)
            else:
                inputs[argument] = array
        return found

    def brings_text(self, case: str) -> bool:
        """Return whether a case has a text that no case before it has."""
        texts = {name: inputs["input_ids"] for name, inputs in self.cases().items() if "input_ids" in inputs}
        return case in texts and next(name for name in texts if np.array_equal(texts[name], texts[case])) == case

    def unlabelled(self, case: str, inputs: Mapping[str, Any], targets: Collection[str]) -> dict[str, Any] | None:
        """Return a case's inputs without its targets, if these are to be computed, too.

        Compiled, the first case alone: compiling takes long.
        """
        wanted = self.mode == "eager" or case == next(iter(self.cases()))
        if not wanted or not any(name in inputs for name in targets):
            return None
        return {name: value for name, value in inputs.items() if name not in targets}

    def _under(self, prefix: str) -> dict[str, Array]:
        return {name.removeprefix(prefix): array for name, array in self.arrays.items() if name.startswith(prefix)}

    def write(self, folder: Path) -> None:
        """Write the job for another process."""
        keys = {name: value for name, value in vars(self).items() if name != "arrays"}
        (folder / "job.json").write_text(json.dumps(keys))
        np.savez(folder / "in.npz", **self.arrays)  # type: ignore[arg-type]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a job from another process."""
        keys = json.loads((folder / "job.json").read_text())
        with np.load(folder / "in.npz", allow_pickle=False) as arrays:
            return cls(**keys | {"tasks": tuple(keys["tasks"])}, arrays=dict(arrays))


@dataclass
class Answer:
    """What a side gives back: arrays by name, and facts beside them."""

    arrays: dict[str, Array] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, prefix: str, values: Mapping[str, Any], take: Callable[[Any], Array]) -> None:
        """Add outputs under a prefix, lists as `name.0`, `name.1`."""
        for name, value in values.items():
            if isinstance(value, list | tuple):
                self.add(prefix, {f"{name}.{number}": each for number, each in enumerate(value)}, take)
            elif value is not None:
                self.arrays[f"{prefix}/{name}"] = take(value)

    def write(self, folder: Path) -> None:
        """Write the answer for the process that asked."""
        np.savez(folder / "out.npz", **self.arrays)  # type: ignore[arg-type]
        (folder / "out.json").write_text(json.dumps(self.facts))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the answer of another process."""
        with np.load(folder / "out.npz", allow_pickle=False) as arrays:
            return cls(dict(arrays), json.loads((folder / "out.json").read_text()))


def require_device(wanted: str, known: Collection[str]) -> None:
    """Refuse to compute elsewhere than was asked for.

    Raises:
        ParityError: names the devices that there are.
    """
    if wanted not in known:
        raise ParityError(f"probe: the device must be one at hand ({', '.join(known)}), got {wanted!r}")


def serve(answer: Callable[[Job], Answer]) -> None:
    """Answer jobs until standard input ends. Whatever frameworks print goes to standard error."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        folder = Path(line.strip())
        try:
            answer(Job.read(folder)).write(folder)
            reply = {}
        except XLError as error:  # says by itself what is wrong
            reply = {"error": str(error), "traceback": ""}
        except Exception as error:  # whatever it is, the other side must hear of it
            reply = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


# ------------------------------------------------------------------------------------------------------- tracing


class Recorder:
    """Records what the code of one folder assigns to its local names, step by step, while it runs.

    The twins use the same names in the same order, so the steps of two sides can be laid side by side; nothing in the
    models is there for it.

    Args:
        folder: only functions whose file lies in it are recorded.
        layer_of: from an object to its canonical name, or None if it is no layer.
        take: from a value to an array, or None if it is none; arrays of ids, counts and truth values it may leave out.
    """

    def __init__(
        self, folder: Path, layer_of: Callable[[Any], str | None], take: Callable[[Any], Array | None]
    ) -> None:
        self._folder, self._layer_of, self._take = str(folder), layer_of, take
        self._scopes: dict[FrameType, tuple[str, str]] = {}
        self._seen: dict[FrameType, dict[str, int]] = {}
        self._lines: dict[FrameType, int] = {}
        self._counts: dict[str, int] = {}
        self.arrays: dict[str, Array] = {}
        self.lines: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._before = sys.gettrace()
        sys.settrace(self._on_call)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        sys.settrace(self._before)

    def _on_call(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(self._folder) or frame.f_code.co_name.startswith(("__", "<")):
            return None
        owner = frame.f_locals.get("self")
        layer = self._layer_of(owner) if owner is not None else None
        function = frame.f_code.co_name
        if layer is None:
            layer, outer = self._scope_above(frame)
            function = f"{outer}.{function}" if outer else function
        self._scopes[frame] = layer, "" if function in ("forward", "call") else function
        self._seen[frame] = {name: id(value) for name, value in frame.f_locals.items()}
        self._lines[frame] = frame.f_lineno
        return self._on_step

    def _scope_above(self, frame: FrameType) -> tuple[str, str]:
        above = frame.f_back
        while above is not None and above not in self._scopes:
            above = above.f_back
        return self._scopes[above] if above is not None else ("", "")

    def _on_step(self, frame: FrameType, event: str, argument: Any) -> Any:
        seen = self._seen[frame]
        for name, value in list(frame.f_locals.items()):
            if seen.get(name) != id(value):
                seen[name] = id(value)
                self._record(frame, name, value)
        if event == "return":
            self._record(frame, "returned", argument)
            del self._scopes[frame], self._seen[frame], self._lines[frame]
        else:
            self._lines[frame] = frame.f_lineno
        return self._on_step

    def _record(self, frame: FrameType, name: str, value: Any) -> None:
        if isinstance(value, list | tuple):
            for number, each in enumerate(value):
                self._record(frame, f"{name}.{number}", each)
            return
        array = self._take(value)
        array = whole_numbers(value) if array is None else array
        if array is None:
            return
        layer, function = self._scopes[frame]
        key = f"{layer}|{function + '.' if function else ''}{name}"
        count = self._counts[key] = self._counts.get(key, 0) + 1
        key = f"{key}#{count}"
        self.arrays[key] = array
        file = os.path.relpath(frame.f_code.co_filename, os.path.dirname(self._folder))
        self.lines[key] = f"{file}:{self._lines[frame]}"


def whole_numbers(value: Any) -> Array | None:
    """Return an array of whole numbers or truth values of any framework, if it lies at hand, and nothing else.

    Masks, positions and labels are steps, too: where one is wrong, the first real number comes late.
    """
    if not hasattr(value, "__array__") or not any(kind in str(getattr(value, "dtype", "")) for kind in ("int", "bool")):
        return None
    try:
        array = np.array(value)
    except (TypeError, RuntimeError, NotImplementedError):  # on an accelerator, or not computed yet
        return None
    return array if array.dtype.kind in "biu" else None
