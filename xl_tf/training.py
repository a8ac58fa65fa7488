"""What `fit` needs to train on long texts."""

from typing import Any

import keras
from keras import ops

from xlcore.errors import ConfigError


class CarryMemory(keras.callbacks.Callback):
    """Have `fit` and `evaluate` read long texts on: the memory of each batch starts the next.

    Give data whose batches follow each other, as `xlcore.tasks.language_modeling.stream_segments` makes them, with
    `batch_size` as given here and `shuffle=False`. Each epoch, and each evaluation, starts from an empty mind; training
    goes on after an evaluation where it stood before it. Afterwards the model carries nothing.

    Args:
        batch_size: the rows of each batch, which are as many texts. All batches must have them: a data set of another
            length needs `drop_remainder`, for a compiled step cannot say clearly what is wrong.
        endless: the data have no end, as those of `PermutationLanguageModelingDataset`: an epoch reads on where the one
            before it stopped, and remembers it.
    """

    def __init__(self, batch_size: int, endless: bool = False) -> None:
        super().__init__()
        self.batch_size, self.endless = batch_size, endless
        self.training = False
        self._aside: list[Any] = []

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin to carry."""
        self._carry()
        self.model.make_train_function()
        self.training = True

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the texts anew, if they have an end."""
        if not self.endless:
            self.model.reset_memory()

    def on_test_begin(self, logs: Any = None) -> None:
        """Put the memory of training aside and start the evaluated texts anew."""
        if self.training:
            self._aside = [ops.convert_to_numpy(state).copy() for state in self.model.body().carried.states()]
        else:
            self._carry()
            self.model.make_test_function()
        self.model.reset_memory()

    def on_test_end(self, logs: Any = None) -> None:
        """Return to the memory of training."""
        if not self.training:
            self.let_go()
        for state, memory in zip(self.model.body().carried.states(), self._aside, strict=False):
            state.assign(memory)
        self._aside = []

    def let_go(self) -> None:
        """Carry nothing any longer, however far it went."""
        self.training, self._aside, self.model.carrier = False, [], None
        self.model.drop_memory()

    def _carry(self) -> None:
        if not hasattr(self.model, "carry_memory"):
            raise ConfigError(f"CarryMemory: model must have a memory, got {type(self.model).__name__}")
        self.model.carry_memory(self.batch_size)
        self.model.carrier = self
