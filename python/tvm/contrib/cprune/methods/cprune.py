# SPDX-License-Identifier: Apache-2.0
"""CPrune's pruning algorithm (Kim et al., ECCV 2022, Algorithm 1)."""

from tvm.contrib.cprune.compiler import Candidate
from tvm.contrib.cprune.loop.attempt import attempt
from tvm.contrib.cprune.loop.baseline import restore
from tvm.contrib.cprune.loop.decision import stop_reason
from tvm.contrib.cprune.loop.proposal import propose
from tvm.contrib.cprune.loop.run import AcceptedModel, Run
from tvm.contrib.cprune.loop.state import LoopState
from tvm.contrib.cprune.methods.method import Method
from tvm.contrib.cprune.models.surgery import widths


class CPrune(Method):
    """The tuned programs decide which task is pruned next, and by how many channels."""

    def start(self, run: Run, baseline: AcceptedModel) -> LoopState:
        """Return the state that the loop begins or continues with, which variants of the method change."""
        return run.journal.state()

    def prune(self, run: Run, baseline: AcceptedModel) -> tuple[Candidate, str]:
        """Prune a tuned model until no step is left that is faster and accurate enough.

        Algorithm 1, with the line numbers that comments and docstrings refer to::

             1  table <- tune(model)                         # tasks, their subgraphs and fastest programs
             2  latency <- measure(model, table)
             3  goal <- beta * latency
             4  while tasks are left and no limit is reached:
             5      order the tasks by impact = latency * number of subgraphs
             6      take the first task that can still be pruned
             7      candidate <- prune every subgraph of the task by one channel step
             8      transplant the programs of the tasks that changed; measure the candidate
             9      if its latency > goal:
            10          reject it: try a further step, or the next task
            11          continue
            12      train the candidate for a short term; evaluate it
            13      if its accuracy < a_min or < alpha * accuracy of the last accepted model:
            14          reject it: try its channel groups one by one, then halfway, then exclude them
            15          continue
            16      accept it: model, table, accuracy <- those of the candidate
            17      goal <- beta * latency of the candidate
            18  train the model for a long term; tune it further

        The paper takes the same step in line 7 whatever the accuracy, trains every candidate in line 12, and
        excludes the groups in line 14 at once (see ``partial_fit``, ``larger_steps``, ``hopeless`` and
        ``retry_smaller`` in ``PruneConfig``).

        Parameters
        ----------
        baseline
            The unpruned model after lines 1 to 3.

        Returns
        -------
        pruned
            The last accepted model, before line 18.
        reason
            Why the loop stopped.
        """
        state, original_widths = self.start(run, baseline), widths(run.model)
        current = restore(run, state, baseline)
        while (stopped := run.journal.last("stopped")) is None:
            stop = stop_reason(state.speedup, state.iteration, state.seconds, run.config)
            proposal = None if stop else propose(current, state, original_widths, run.config)
            if proposal is None:
                run.journal.append(
                    {"event": "stopped", "reason": stop or "no task is left that can be pruned"}
                )
                continue
            accepted, event = attempt(run, baseline.candidate, current, state, proposal)
            state = state.after(run.record(event))
            if accepted is not None:
                if current is not baseline:
                    run.compiler.discard(current.candidate)
                current = accepted
        return current.candidate, stopped["reason"]
