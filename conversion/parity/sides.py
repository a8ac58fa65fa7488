"""The sides of a comparison: each framework in a process of its own, so that only what is asked for is needed."""

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from xlcore.errors import ParityError
from xlcore.probe import Answer, Job

ROOMS = {"torch": "xl_torch", "tensorflow": "xl_tf", "jax": "xl_tf"}
MOST = 2000  # characters of an error that are told: frameworks print whole arrays
MODES = {"torch": ("eager", "compile"), "tensorflow": ("eager", "graph", "xla"), "jax": ("eager", "graph")}


@dataclass
class Side:
    """One framework, and the process in which it answers.

    Args:
        framework: `torch`, `tensorflow` or `jax`.
        device: where it computes: `cpu`, `cuda`, or `cuda:1` for one of several.
        path: folders that come before all others when modules are looked for.
    """

    framework: str
    device: str = "cpu"
    path: tuple[str, ...] = ()
    _process: subprocess.Popen[str] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.framework not in ROOMS:
            raise ParityError(f"parity: a framework must be one of {', '.join(ROOMS)}, got {self.framework!r}")
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise ParityError(f"parity: a device must be cpu, cuda or cuda:N, got {self.device!r}")
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (it lives as long as the side)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        self._errors.close()

    def model(self, name: str) -> str:
        """Return `module:Class` of a known model class for this framework; a name with a colon stays as it is."""
        prefix = "" if self.framework == "torch" else "TF"
        return name if ":" in name else f"{ROOMS[self.framework]}:{prefix}{name}"

    def ask(self, job: Job) -> Answer:
        """Have the side do a job.

        Raises:
            ParityError: with what the side had to say, if it could not.
        """
        if self._errors.closed:
            raise ParityError(f"parity: {self.framework} must be asked before it ends, got a question after it")
        if self._process is None:
            self._process = self._started()
        with tempfile.TemporaryDirectory() as folder:
            job.device = self.device.partition(":")[0]  # `settings` lets the side see no other one
            job.write(Path(folder))
            reply = self._exchanged(self._process, folder)
            if "error" in reply:
                error, lines = reply["error"][:MOST], "\n".join(reply["traceback"][-MOST:].splitlines()[:-1])
                raise ParityError(f"{self.framework}: {job.model} must run, got {error}\n{lines}".rstrip())
            return Answer.read(Path(folder))

    def _started(self) -> subprocess.Popen[str]:
        paths = os.pathsep.join([*self.path, *(path or str(Path.cwd()) for path in sys.path)])
        given = {"PYTHONPATH": paths, **settings(self.framework, self.device)}
        environment = [f"{name}={value}" for name, value in given.items()]
        command = ["env", *environment, sys.executable, "-P", "-m", f"{ROOMS[self.framework]}.probe"]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._errors, text=True)

    def _exchanged(self, process: subprocess.Popen[str], folder: str) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(folder + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died; what it said before comes below
        line = process.stdout.readline()
        if line:
            reply: dict[str, Any] = json.loads(line)
            return reply
        self._errors.seek(0)
        last = self._errors.read().strip().splitlines()[-1:] or ["nothing on standard error"]
        room = ROOMS[self.framework]
        raise ParityError(
            f"{self.framework}: python -m {room}.probe must run, got: {last[0]}; "
            f"is the framework installed? pip install 'xlbridge[{'torch' if room == 'xl_torch' else 'tf'}]'"
        )


def settings(framework: str, device: str) -> dict[str, str]:
    """Return the environment in which a framework computes on one device and sees no other one.

    On CUDA every product is computed in the precision of its dtype: left alone, JAX and TensorFlow multiply float32 in
    a format of 10 bits there. And memory is taken as it is needed, so that both sides fit beside each other.

    Raises:
        ParityError: if the caller's own environment hides the device.
    """
    given = {"KERAS_BACKEND": framework, "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_ENABLE_X64": "1"}
    if device == "cpu":
        return given | {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    given |= {"JAX_PLATFORMS": "cuda", "JAX_DEFAULT_MATMUL_PRECISION": "highest", "NVIDIA_TF32_OVERRIDE": "0"}
    given |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    number = device.partition(":")[2]
    if not number:
        return given
    visible = [name for name in os.getenv("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if visible and int(number) >= len(visible):
        count = f"the {len(visible)} that CUDA_VISIBLE_DEVICES names, counted from 0"
        raise ParityError(f"parity: a device must be one of {count}, got {device!r}")
    return given | {"CUDA_VISIBLE_DEVICES": visible[int(number)] if visible else number}
