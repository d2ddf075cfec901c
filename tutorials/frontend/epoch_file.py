# SPDX-License-Identifier: Apache-2.0
"""The state of a training after its last complete epoch, from which a killed run continues."""

import hashlib
from pathlib import Path

import torch
from torch.optim.lr_scheduler import LRScheduler

from tvm.contrib.cprune.files import replaced
from tvm.contrib.cprune.models.checkpoint import digest
from tvm.contrib.cprune.types import CPruneError


class EpochFile:
    """A file that holds everything the next epoch of a training depends on.

    Create it before the first epoch. The initial weights, the state of torch's random generator and
    ``settings`` identify the training; the state of any other training in the file is ignored.

    Parameters
    ----------
    settings
        Description of the data and hyperparameters.
    """

    def __init__(
        self,
        path: Path,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: LRScheduler | None,
        settings: str,
    ) -> None:
        self._path, self._model, self._optimizer, self._schedule = path, model, optimizer, schedule
        start = torch.get_rng_state().numpy().tobytes()
        self._training = hashlib.sha256(f"{digest(model)} {settings} ".encode() + start).hexdigest()

    def restore(self) -> int:
        """Restore the saved state, and return the number of complete epochs; 0 if none is saved.

        Raises
        ------
        CPruneError
            If the file is damaged.
        """
        if not self._path.exists():
            return 0
        try:
            state = torch.load(self._path, map_location="cpu", weights_only=True)
            if state["training"] != self._training:
                return 0
            self._model.load_state_dict(state["model"])
            self._optimizer.load_state_dict(state["optimizer"])
            if self._schedule:
                self._schedule.load_state_dict(state["schedule"])
            torch.set_rng_state(state["random"])
            return int(state["epochs"])
        except Exception as error:  # torch.load raises almost anything on a damaged file.
            raise CPruneError(
                f"{self._path} is damaged ({type(error).__name__}): delete it to train again"
            ) from None

    def save(self, epochs: int) -> None:
        """Save the state after ``epochs`` complete epochs, atomically."""
        state = {
            "training": self._training,
            "epochs": epochs,
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict() if self._schedule else None,
            "random": torch.get_rng_state(),
        }
        with replaced(self._path) as part:
            torch.save(state, part)
