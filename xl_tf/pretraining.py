"""Data for training language models, as Keras takes it. The rules are those of `xlcore.tasks`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from xlcore.tasks.cross_lingual import CrossLingualBatches
from xlcore.tasks.permutation_collator import Draws, PermutationCollator
from xlcore.tasks.permutation_windows import PermutationBatches
from xlcore.tokenizers.batch import tensor_maker


class GlobalDraws:
    """NumPy's global state, which `keras.utils.set_random_seed` sets."""

    def integers(self, low: int, high: int) -> int:
        """Draw a whole number from `low` to `high` - 1."""
        return int(np.random.randint(low, high))

    def permutation(self, n: int) -> Any:
        """Draw an order of 0 to n - 1."""
        return np.random.permutation(n)


@dataclass
class DataCollatorForPermutationLanguageModeling(PermutationCollator):
    """Texts to batches for `fit`, by the rules of transformers' torch collator; arguments as in `PermutationCollator`.

    Batches are arrays of NumPy, which every backend takes; `return_tensors="tf"` makes tensors of TensorFlow.
    """

    return_tensors: str = "np"

    def __call__(self, features: Sequence[Any], return_tensors: str | None = None) -> dict[str, Any]:
        """Make a batch of texts; arguments and result as in `collate`."""
        make = tensor_maker(return_tensors or self.return_tensors)
        batch = self.collate(features, self._draws())
        self.step += 1
        return {name: make(array) for name, array in batch.items()}

    def _draws(self) -> Draws:
        return GlobalDraws() if self.seed is None else np.random.default_rng([self.seed, self.step])


class PermutationLanguageModelingDataset(PermutationBatches, keras.utils.PyDataset):
    """Batches for pretraining as the authors make them, without end; see `PermutationBatches`.

    For a loop, or for `fit(data, steps_per_epoch=..., shuffle=False)`. Keras never shuffles data without end, and keeps
    the order whatever the number of `workers`.
    """

    num_batches = None  # without end

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Return a batch as arrays of NumPy."""
        return self.batch(number)


class CrossLingualDataset(CrossLingualBatches, keras.utils.PyDataset):
    """Batches for training XLM on several languages, without end; see `CrossLingualBatches`.

    For a loop, or for `fit(data, steps_per_epoch=..., shuffle=False)`. Keras never shuffles data without end, and keeps
    the order whatever the number of `workers`.
    """

    num_batches = None  # without end

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Return a batch as arrays of NumPy.

        Keras takes for fixed what the first two batches have in common, such as their length; see `unlike`.
        """
        return self.unlike(number)
