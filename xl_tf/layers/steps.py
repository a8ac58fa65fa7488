"""Reading on from a cache, a word at a time, in code that is compiled once for all steps."""

from collections.abc import Callable
from typing import Any

from keras import ops

from xl_tf.backend import compiled_function
from xl_tf.layers.cache import KeyValueCache
from xl_tf.layers.reading import roomy


def make_room(cache: KeyValueCache, count: int, most: int | None) -> None:
    """Put positions that hold nothing before those of a cache, one for each that will be read and kept.

    Args:
        count: words that will be read, the last of which nobody reads on from.
        most: positions that a text may have, if there is a limit.
    """
    needed = cache.length + count - 1
    room = roomy(needed) if most is None else max(needed, min(roomy(needed), most - 1))
    absent = room - cache.length
    places = [[0, 0], [absent, 0], [0, 0], [0, 0]]
    cache.keep([tuple(ops.pad(each, places) for each in layer) for layer in cache.layers], room)
    cache.absent = ops.convert_to_tensor(absent, "int32")


def compiled_steps(model: Any, read: Callable[..., Any]) -> Callable[..., Any]:
    """Return `read(cache, *given)`, which reads a word more of each text, as code that is compiled once.

    The cache has room (`make_room`): as each word is read, one position that holds nothing gives way at the front.
    """

    def stepped(layers: list[tuple[Any, ...]], absent: Any, *given: Any) -> tuple[Any, list[tuple[Any, ...]], Any]:
        cache = KeyValueCache()
        cache.keep(layers, layers[0][0].shape[1])
        cache.absent = absent
        found = read(cache, *given)
        return found, [tuple(each[:, 1:] for each in layer) for layer in cache.layers], ops.maximum(absent - 1, 0)

    function = compiled_function(stepped, model)

    def step(cache: KeyValueCache, *given: Any) -> Any:
        found, layers, cache.absent = function(cache.layers, cache.absent, *given)
        cache.keep(layers, cache.length)
        return found

    return step
