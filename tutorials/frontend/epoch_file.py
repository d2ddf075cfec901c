# SPDX-License-Identifier: Apache-2.0
"""The state of a training after its last complete epoch, from which a killed run continues."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tvm.contrib.cprune.models.checkpoint import save_state
from tvm.contrib.cprune.types import CPruneError


class EpochFile:
    """A file that holds everything the next epoch of a training depends on.

    Parameters
    ----------
    parts
        The model, the optimizer and others with the methods ``state_dict`` and ``load_state_dict``, by name.
    training
        Identifies the training: the initial weights, the data, the seed and the hyperparameters. The state of
        any other training in the file is ignored.
    """

    def __init__(self, path: Path, parts: Mapping[str, Any], training: str) -> None:
        self._path, self._parts, self._training = path, parts, training

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
            for name, part in self._parts.items():
                part.load_state_dict(state[name])
            return int(state["epochs"])
        except Exception as error:  # torch.load raises almost anything on a damaged file.
            raise CPruneError(
                f"{self._path} is damaged ({type(error).__name__}): delete it to train again"
            ) from None

    def save(self, epochs: int) -> None:
        """Save the state after ``epochs`` complete epochs, atomically."""
        states = {name: part.state_dict() for name, part in self._parts.items()}
        save_state(self._path, {"training": self._training, "epochs": epochs, **states})
