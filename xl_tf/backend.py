"""What Keras has no public word for: variables without values, deriving, compiling, and the framework's version."""

import importlib
import mmap
import operator
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

LARGE = 1 << 20  # bytes of a value that is not copied where that can be helped
ALIGNED = 64  # where TensorFlow wants memory to begin: at a multiple of that many bytes
ROWS = 256  # of a matrix that are turned at once, so that they stay in the processor's cache


def version() -> dict[str, str]:
    """Return name and version of what computes under Keras."""
    name = keras.backend.backend()
    return {"keras": keras.__version__, name: str(importlib.import_module(name).__version__)}


def devices() -> tuple[str, ...]:
    """Return the device on which all is computed, `cuda` or `cpu`."""
    if keras.backend.backend() == "jax":
        import jax

        try:
            return ("cuda",) if jax.default_backend() == "gpu" else ("cpu",)
        except (RuntimeError, AssertionError):  # JAX_PLATFORMS names what is not at hand
            return ("cpu",)
    import tensorflow

    return ("cuda",) if tensorflow.config.list_physical_devices("GPU") else ("cpu",)


def keep_float64() -> None:
    """Have Keras on JAX compute in float64 what is given in float64, so that the maths can be proven there, too.

    Its rules of promotion make float32 of it, in `sin`, `cos`, `tanh` and layer normalisation for some, even where JAX
    is told to keep 64 bits. There is no setting for it.
    """
    if keras.backend.backend() == "jax":
        from keras.src.backend.common import dtypes

        dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"


# ------------------------------------------------------------------------------------------- variables without values


@contextmanager
def without_values() -> Iterator[None]:
    """Make variables that take no memory until `give_value` or `give_values`: Keras would fill them first."""
    from keras.src.backend.common import global_state

    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        global_state.set_global_attribute("uninitialized_variables", [])  # else Keras fills them at the next scope


def give_value(variable: Any, array: Any, turned: bool) -> None:
    """Give a variable without a value its first one, which may be of another dtype, and `turned`: transposed."""
    if array.nbytes >= LARGE and array.dtype.name == variable.dtype and keras.backend.backend() == "tensorflow":
        value = _adopted(_laid_out(array, turned))
    else:
        value = ops.convert_to_tensor(array, dtype=variable.dtype)
        value = ops.transpose(value) if turned else value  # frameworks turn faster than numpy
    variable._initialize(value)
    variable._initializer = None


def _laid_out(array: Any, turned: bool) -> Any:
    """Return an array, or a matrix transposed, in memory that TensorFlow can take over as it is."""
    if not turned and array.ctypes.data % ALIGNED == 0 and array.flags.c_contiguous and array.flags.writeable:
        return array
    memory = mmap.mmap(-1, array.nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # in pages, and not in large ones:
    laid_out = np.frombuffer(memory, array.dtype)  # to find room for those takes longer than to fill it
    laid_out = laid_out.reshape(array.shape[::-1] if turned else array.shape)
    for row in range(0, len(array), ROWS):
        rows = slice(row, row + ROWS)
        laid_out[(slice(None), rows) if turned else rows] = array[rows].T if turned else array[rows]
    return laid_out


def _adopted(array: Any) -> Any:
    """Return an array as a tensor of TensorFlow's in the same memory.

    TensorFlow copies what it converts, into memory of its own that it takes in ever larger pieces and keeps.
    """
    import tensorflow

    dtype = array.dtype.name
    bits = array if array.dtype.isbuiltin == 1 else array.view(f"uint{8 * array.dtype.itemsize}")
    tensor = tensorflow.experimental.dlpack.from_dlpack(bits.__dlpack__())
    return tensor if bits is array else tensorflow.bitcast(tensor, dtype)


def give_values(variables: Iterable[Any], but: Iterable[Any]) -> None:
    """Give variables without values those that they were made to begin with, but for some of them."""
    left = {id(variable) for variable in but}
    for variable in variables:
        if id(variable) not in left:
            variable._deferred_initialize()


# ---------------------------------------------------------------------------------------------- deriving, compiling


def compiled(model: Any, mode: str, static: tuple[str, ...] = ()) -> Any:
    """Return a function that computes the model in a mode: `eager`, `graph` or `xla` (on JAX the last two are one).

    Args:
        static: arguments that are no arrays.
    """
    if mode == "eager":
        return model
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(lambda **inputs: model(**inputs), static_argnames=static)
    import tensorflow

    return tensorflow.function(lambda **inputs: model(**inputs), jit_compile=mode == "xla", autograph=False)


def compiled_function(function: Callable[..., Any], model: Any) -> Callable[..., Any]:
    """Return a function that is compiled once for arguments of the same shapes, and reads a model's weights anew.

    It is compiled anew when other variables have taken their place, as `quantize` and `enable_lora` of Keras have it.
    """
    variables, made = [], None

    def call(*given: Any) -> Any:
        nonlocal variables, made
        now = model.variables
        if made is None or len(now) != len(variables) or any(map(operator.is_not, now, variables)):
            variables, made = now, _compiled(function, model)
        return made(*given)

    return call


def _compiled(function: Callable[..., Any], model: Any) -> Callable[..., Any]:
    """Return a function that is compiled for the variables that a model has."""
    if keras.backend.backend() == "jax":
        import jax

        def of(values: list[Any], *given: Any) -> Any:
            with keras.StatelessScope(state_mapping=list(zip(model.variables, values, strict=True))):
                return function(*given)

        jitted = jax.jit(of)
        return lambda *given: jitted([variable.value for variable in model.variables], *given)
    import tensorflow

    return tensorflow.function(function, autograph=False)


def rewriting() -> str:
    """Return what it takes here to change rows of an array: `nothing`, as compiled code does it, `place` or `copy`.

    Compiled code sees that nobody else reads the array. TensorFlow on a CPU can be told so, elsewhere it copies it all.
    """
    if keras.backend.backend() == "jax":
        return "nothing"
    import tensorflow
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

    if tensorflow.inside_function() and GraphOrParentsInXlaContext(tensorflow.compat.v1.get_default_graph()):
        return "nothing"
    return "place" if devices() == ("cpu",) else "copy"


def room(shape: tuple[Any, ...], dtype: str, takes: str, after: Any) -> Any:
    """Return an array of zeros that nobody else reads, whose rows are to be changed; see `rewriting`.

    It is made when another array is there: TensorFlow would make it sooner than it is needed.
    """
    if takes != "place":
        return ops.zeros(shape, dtype)
    import tensorflow

    with tensorflow.control_dependencies([after]):
        return tensorflow.raw_ops.Empty(shape=shape, dtype=dtype, init=True)  # zeros might be a constant of the code


def with_rows(array: Any, first: Any, rows: Any, takes: str) -> Any:
    """Return an array with other rows from one on; for `takes` see `rewriting`; in place it must be of `room`."""
    if takes != "place":
        return ops.slice_update(array, (first, *[0] * (len(array.shape) - 1)), rows)
    import tensorflow

    places = ops.cast(first, "int32") + ops.arange(ops.shape(rows)[0], dtype="int32")
    return tensorflow.raw_ops.InplaceUpdate(x=array, i=places, v=rows)


def with_rows_added(array: Any, places: Any, rows: Any, takes: str) -> Any:
    """Return an array of TensorFlow with rows added at places, which may be the same; for `takes` see `rewriting`."""
    import tensorflow

    places, rows = ops.ravel(places), ops.reshape(rows, (-1, rows.shape[-1]))
    if takes != "place":
        return tensorflow.tensor_scatter_nd_add(array, places[:, None], rows)
    # An array may be a constant or have other readers: what adds the first row copies it if so, and only then. Adding
    # none would not do, which may be done beforehand and make a constant again.
    places = ops.concatenate([ops.cast(places, "int32"), ops.zeros((1,), "int32")])  # there is a first one at least
    rows = ops.concatenate([rows, ops.zeros((1, rows.shape[-1]), rows.dtype)])
    edges = {"begin": places[:1], "end": places[:1] + 1, "strides": [1]}
    first = ops.take(array, places[:1], axis=0) + rows[:1]
    own = tensorflow.raw_ops.TensorStridedSliceUpdate(input=array, value=first, **edges)
    return tensorflow.raw_ops.InplaceAdd(x=own, i=places[1:], v=rows[1:])


def make_place(rows: Any, size: int) -> Any:
    """Return room for `size` rows, [B, N, size, H], to write to in place, with rows [B, N, X, H] at its front.

    Compiled code takes it as an argument. None where there is nothing of the kind: in compiled code, on JAX, and within
    a strategy that spreads variables over devices.
    """
    if keras.backend.backend() == "jax":
        return None
    import tensorflow

    if tensorflow.inside_function() or tensorflow.distribute.has_strategy():
        return None
    empty = ops.zeros((*rows.shape[:2], size - rows.shape[2], rows.shape[3]), rows.dtype)
    return tensorflow.Variable(ops.concatenate([rows, empty], axis=2), trainable=False)


def write_place(place: Any, first: Any, rows: Any) -> None:
    """Write rows [B, N, X, H] to a `place`, from its row `first` on."""
    place.scatter_nd_update(_entries(place, first, rows.shape[2]), rows)  # slices that are assigned copy it all


def read_place(place: Any, first: Any, count: int) -> Any:
    """Return that many rows of a `place` from one on, [B, N, count, H]; a copy."""
    return place.gather_nd(_entries(place, first, count))


def _entries(place: Any, first: Any, count: int) -> Any:
    """Return where rows of a `place` stand, [B, N, count, 3]."""
    rows = ops.arange(count, dtype="int32") + first
    entries = ops.meshgrid(*[ops.arange(size, dtype="int32") for size in place.shape[:2]], rows, indexing="ij")
    return ops.stack(entries, axis=-1)


def records() -> bool:
    """Tell whether TensorFlow may be recording what is computed, to derive it; not within what is computed anew."""
    if keras.backend.backend() != "tensorflow":
        return False
    from tensorflow.python.eager.record import could_possibly_record

    return bool(could_possibly_record())


def scope_of_code() -> Any:
    """Return the code that is being compiled, in which arrays have no values yet; what equals itself where none is."""
    if keras.backend.backend() == "jax":
        core = importlib.import_module("jax.extend.core")
        core = core if hasattr(core, "get_opaque_trace_state") else importlib.import_module("jax.core")  # of older ones
        return core.get_opaque_trace_state(convention="flax")
    import tensorflow

    return tensorflow.compat.v1.get_default_graph() if tensorflow.inside_function() else None


def share_of_replica(loss: Any) -> Any:
    """Return what a replica adds to the loss of all: Keras adds up losses and gradients of all replicas."""
    if keras.backend.backend() != "tensorflow":
        return loss
    import tensorflow

    count = tensorflow.distribute.get_strategy().num_replicas_in_sync
    return loss / count if count > 1 else loss


def value_and_gradients(function: Callable[[], Any], variables: list[Any]) -> Callable[[], tuple[Any, list[Any]]]:
    """Make a function that returns what the given one computes and its gradient by variables, zero if it has none."""
    if keras.backend.backend() == "jax":
        import jax

        def of(values: list[Any]) -> Any:
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                return function()

        return lambda: jax.value_and_grad(of)([variable.value for variable in variables])
    import tensorflow

    def derived() -> tuple[Any, list[Any]]:
        with tensorflow.GradientTape() as tape:
            value = function()
        found = tape.gradient(value, [variable.value for variable in variables], unconnected_gradients="zero")
        return value, [tensorflow.convert_to_tensor(each) for each in found]  # rows of a table come as slices

    return derived
