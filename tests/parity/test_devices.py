"""Where both sides compute: what each framework is told, and that none computes elsewhere in silence. Needs no GPU."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from conversion.parity.sides import Side, settings
from xlcore.errors import ParityError
from xlcore.families.transfo_xl import EXAMPLES, TransfoXLConfig
from xlcore.probe import Answer, Job, require_device

CONFIG = TransfoXLConfig(**EXAMPLES["bins"])
FRAMEWORKS = ["torch", "tensorflow", "jax"]


def job(model, **keys):
    return Job(model, CONFIG.to_dict(), tasks=("static",), **keys)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_on_the_cpu_a_side_sees_no_other_device(framework):
    """A GPU at hand would be taken by Keras, whatever the report says."""
    given = settings(framework, "cpu")
    assert given["KERAS_BACKEND"] == framework
    assert (given["CUDA_VISIBLE_DEVICES"], given["JAX_PLATFORMS"]) == ("-1", "cpu")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_on_cuda_products_are_as_precise_as_their_dtype(framework, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    given = settings(framework, "cuda")
    assert given["JAX_PLATFORMS"] == "cuda"
    assert (given["NVIDIA_TF32_OVERRIDE"], given["JAX_DEFAULT_MATMUL_PRECISION"]) == ("0", "highest")
    assert (given["XLA_PYTHON_CLIENT_PREALLOCATE"], given["TF_FORCE_GPU_ALLOW_GROWTH"]) == ("false", "true")
    assert "CUDA_VISIBLE_DEVICES" not in given


@pytest.mark.parametrize(
    ("visible", "device", "wanted"),
    [(None, "cuda:1", "1"), ("", "cuda:0", "0"), ("2,5", "cuda:1", "5"), ("GPU-8f,GPU-9a", "cuda:0", "GPU-8f")],
)
def test_one_of_several_gpus(visible, device, wanted, monkeypatch):
    """Counted as PyTorch counts: among those that the environment lets be seen."""
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert settings("jax", device)["CUDA_VISIBLE_DEVICES"] == wanted


def test_a_gpu_that_the_environment_hides_is_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    message = "a device must be one of the 2 that CUDA_VISIBLE_DEVICES names, counted from 0, got 'cuda:2'"
    with pytest.raises(ParityError, match=message):
        settings("torch", "cuda:2")


@pytest.mark.parametrize("device", ["nope", "gpu", "cuda:", "cuda:-1", "CPU", ""])
def test_what_is_no_device_is_refused(device):
    with pytest.raises(ParityError, match=f"a device must be cpu, cuda or cuda:N, got '{device}'"):
        Side("torch", device)


@pytest.mark.parametrize(("device", "told"), [("cpu", "cpu"), ("cuda", "cuda"), ("cuda:1", "cuda")])
def test_a_side_is_told_where_to_compute(device, told, monkeypatch):
    """Of several GPUs it sees the one that is meant, as its only one."""
    asked = {}

    def exchanged(self, process, folder):
        asked.update(json.loads((Path(folder) / "job.json").read_text()))
        Answer(facts={"versions": {}}).write(Path(folder))
        return {}

    monkeypatch.setattr(Side, "_started", lambda self: None)
    monkeypatch.setattr(Side, "_exchanged", exchanged)
    with Side("torch", device) as side:
        side.ask(job("xl_torch:TransfoXLModel"))
    assert asked["device"] == told


def test_a_side_refuses_to_compute_elsewhere():
    require_device("cpu", ("cpu", "cuda"))
    with pytest.raises(ParityError, match=r"probe: the device must be one at hand \(cpu\), got 'cuda'"):
        require_device("cuda", ("cpu",))


def test_torch_computes_where_it_is_told(monkeypatch):
    torch = pytest.importorskip("torch")
    from xl_torch import TransfoXLModel, probe

    moved = []
    monkeypatch.setattr(TransfoXLModel, "to", lambda self, *where: moved.append(where) or self)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert probe.answer(job("xl_torch:TransfoXLModel", device="cuda")).facts["shapes"]
    assert moved == [("cuda", torch.float64)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ParityError, match=r"the device must be one at hand \(cpu\), got 'cuda'"):
        probe.answer(job("xl_torch:TransfoXLModel", device="cuda"))


def test_tensorflow_computes_where_it_is_told(monkeypatch):
    """It takes a GPU that it sees, and says so; without one it would go on on the CPU."""
    tf = pytest.importorskip("tensorflow")
    from xl_tf import probe

    found = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: found)
    with pytest.raises(ParityError, match=r"the device must be one at hand \(cpu\), got 'cuda'"):
        probe.answer(job("xl_tf:TFTransfoXLModel", device="cuda"))
    found.append("GPU:0")
    assert probe.answer(job("xl_tf:TFTransfoXLModel", device="cuda")).facts["shapes"]
    with pytest.raises(ParityError, match=r"the device must be one at hand \(cuda\), got 'cpu'"):
        probe.answer(job("xl_tf:TFTransfoXLModel"))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_machine_without_gpu_says_so(framework, monkeypatch):
    """The whole way, in a process of its own, to which no GPU is shown."""
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with Side(framework, "cuda") as side:
        model = side.model("TransfoXLModel")
        message = f"{framework}: {model} must run, got probe: the device must be one at hand (cpu), got 'cuda'"
        with pytest.raises(ParityError, match=f"^{re.escape(message)}$"):
            side.ask(job(model))
