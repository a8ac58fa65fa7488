"""What no side can go below: the matrix products of a workload, and nothing else."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple


class Product(NamedTuple):
    """`count` matrices [rows, inner], each times one [inner, columns]."""

    rows: int
    inner: int
    columns: int
    count: int = 1
    learns: bool = True  # whether what is multiplied has a gradient, not the weights alone


def of_layer(
    sizes: Sequence[int], B: int, T: int, S: int, known: int = 0, memory: int = 0, R: int = 0, places: int = 0
) -> list[Product]:
    """Return the products of one layer for B texts, T queries and S keys each.

    Args:
        sizes: width, width within the feed-forward layer, heads.
        known: of the S keys those that are projected already. memory: of the others those that get no gradient.
        R: distances that each query is held against. places: of them those that are projected.
    """
    D, F, N = sizes
    H, new = D // N, S - known - memory
    found = [Product(B * T, D, D)] * 2  # query and output; keys and values:
    found += [Product(B * new, D, D)] * 2 if new else []
    found += [Product(B * memory, D, D, learns=False)] * 2 if memory else []
    found += [Product(T, H, S, B * N), Product(T, S, H, B * N)]
    found += [Product(places, D, D, learns=False)] if places else []
    found += [Product(T, H, R, B * N)] if R else []
    return [*found, Product(B * T, D, F), Product(B * T, F, D)]


def of_word(D: int, F: int) -> list[Product]:
    """Return the products of one layer with its weights for one word, D and F wide."""
    return [*[Product(1, D, D)] * 4, Product(1, D, F), Product(1, F, D)]


class Products:
    """A side that multiplies in PyTorch, each time the same values.

    Args:
        products: what it multiplies in one forward pass.
        asked: what each side is asked: `threads`, and `dtype` if it is not float32.
    """

    def __init__(self, products: Iterable[Product], asked: dict[str, Any]) -> None:
        import torch

        torch.set_num_threads(asked["threads"])
        torch.set_default_dtype(getattr(torch, asked.get("dtype", "float32")))
        self.pairs = [(self._drawn(each), each.learns) for each in products]

    def forward(self, **_: Any) -> Callable[[], None]:
        """Return what multiplies as a forward pass does, whatever else is asked."""
        return lambda: self.multiply()

    def train(self, **_: Any) -> Callable[[], None]:
        """Return what multiplies as a training step does: forward, and for the gradient of either side."""
        return lambda: self.multiply(learn=True)

    def generate(self, count: int) -> Callable[[], None]:
        """Return what multiplies for as many words, one after the other."""
        return lambda: self.multiply(count)

    def multiply(self, times: int = 1, learn: bool = False) -> None:
        """Multiply all of it so many times."""
        for (one, other), learns in times * self.pairs:
            product = one @ other
            if learn:
                one.mT @ product
            if learn and learns:
                product @ other.mT

    def _drawn(self, product: Product) -> Any:
        """Return both sides of a product, the second one as a layer keeps its weights."""
        import torch

        rows, inner, columns, count, _ = product
        many = (count,) if count > 1 else ()
        return torch.randn(*many, rows, inner), torch.randn(*many, columns, inner).mT
