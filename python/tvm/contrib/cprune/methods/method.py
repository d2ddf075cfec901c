# SPDX-License-Identifier: Apache-2.0
"""What a pruning method is to a run."""

from abc import ABC, abstractmethod

from tvm.contrib.cprune.compiler import Candidate
from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.loop.run import AcceptedModel, Run
from tvm.contrib.cprune.models.prunable import PrunableModel


class Method(ABC):
    """Decides the widths of the pruned model.

    Methods have no state of their own: what they need to know about a run is in its journal.
    """

    def check(self, prunable: PrunableModel, config: PruneConfig) -> None:  # noqa: B027
        """Check before anything is tuned that the method can reach its goal, as far as it is known then.

        Raises
        ------
        CPruneError
            If it cannot.
        """

    @abstractmethod
    def prune(self, run: Run, baseline: AcceptedModel) -> tuple[Candidate, str]:
        """Prune a tuned model.

        Parameters
        ----------
        baseline
            The unpruned model.

        Returns
        -------
        pruned
            The last accepted model, before its final training.
        reason
            Why no further step follows.
        """
