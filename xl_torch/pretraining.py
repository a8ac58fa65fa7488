"""Data for training language models, as PyTorch takes it. The rules are those of `xlcore.tasks`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_convert, get_worker_info

from xlcore.tasks.cross_lingual import CrossLingualBatches
from xlcore.tasks.permutation_collator import Draws, PermutationCollator
from xlcore.tasks.permutation_windows import PermutationBatches
from xlcore.tokenizers.batch import tensor_maker


class GlobalDraws:
    """PyTorch's global state, drawn from as transformers does: after the same `manual_seed` the same batches."""

    def integers(self, low: int, high: int) -> int:
        """Draw a whole number from `low` to `high` - 1."""
        return int(torch.randint(low, high, (1,)))

    def permutation(self, n: int) -> Tensor:
        """Draw an order of 0 to n - 1."""
        return torch.randperm(n)


@dataclass
class DataCollatorForPermutationLanguageModeling(PermutationCollator):
    """A `collate_fn` for DataLoader, by the rules of transformers; arguments as in `PermutationCollator`.

    With a seed, each worker process of a DataLoader draws by itself, anew in each epoch.
    """

    return_tensors: str = "pt"

    def __call__(self, features: Sequence[Any], return_tensors: str | None = None) -> dict[str, Any]:
        """Make a batch of texts; arguments and result as in `collate`."""
        make = tensor_maker(return_tensors or self.return_tensors)
        batch = self.collate(features, self._draws())
        self.step += 1
        return {name: make(array) for name, array in batch.items()}

    def _draws(self) -> Draws:
        if self.seed is None:
            return GlobalDraws()
        worker = get_worker_info()
        return np.random.default_rng([self.seed, self.step, *([] if worker is None else [worker.seed])])


class PermutationLanguageModelingDataset(PermutationBatches, Dataset):
    """Batches for pretraining as the authors make them, without end; see `PermutationBatches`.

    For a loop, or for `DataLoader(data, batch_size=None, sampler=range(steps), num_workers=...)`, which keeps the order
    whatever the number of workers.
    """

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """Return a batch as tensors."""
        return default_convert(self.batch(number))


class CrossLingualDataset(CrossLingualBatches, Dataset):
    """Batches for training XLM on several languages, without end; see `CrossLingualBatches`.

    For a loop, or for `DataLoader(data, batch_size=None, sampler=range(steps), num_workers=...)`, which keeps the order
    whatever the number of workers.
    """

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """Return a batch as tensors."""
        return default_convert(self.batch(number))
