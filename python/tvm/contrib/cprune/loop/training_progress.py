# SPDX-License-Identifier: Apache-2.0
"""Progress reports of a training."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingProgress:
    """Progress of a training after a batch.

    Attributes
    ----------
    name
        What is trained, such as "long-term training".
    epoch, epochs
        Number of the current epoch, from 1, and of all epochs.
    batch, batches
        Number of the last batch in this epoch, from 1, and of all batches in it.
    loss
        Mean loss of the batches of this epoch.
    seconds_left
        Estimated time until the training ends.
    """

    name: str
    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float
    seconds_left: float = 0.0

    @property
    def epoch_is_complete(self) -> bool:
        return self.batch == self.batches

    def __str__(self) -> str:
        batch = "" if self.epoch_is_complete else f", batch {self.batch}/{self.batches}"
        where = f"{self.name}: epoch {self.epoch}/{self.epochs}{batch}"
        return f"{where}, loss {self.loss:.4f}, {self.seconds_left:.0f} s left"
