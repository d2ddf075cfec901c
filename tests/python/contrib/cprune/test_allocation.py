# SPDX-License-Identifier: Apache-2.0
"""The allocation of trials to Ansor's tasks."""

from dataclasses import replace

import pytest
from programs import task_of

from tvm.contrib.cprune.config import TuneConfig
from tvm.contrib.cprune.tuning.ansor.allocation import AnsorSearch, batch_size, next_search
from tvm.contrib.cprune.tuning.ansor.tiled_programs import TiledPrograms
from tvm.contrib.cprune.types import Subgraph, Task

NEVER = float("inf")


def waiting(
    task: Task, trials: int, best: float, *alternatives: AnsorSearch, goal: float = 0.0, budget: int = 16
) -> AnsorSearch:
    """Return a search with these trials."""
    made = AnsorSearch(
        task=task,
        budget=budget,
        goal=goal,
        policy=None,
        model=None,
        tiled=TiledPrograms(task, None, 0),
        trials=trials,
        best=best,
        fair_trials=4,
    )
    made.alternatives += alternatives
    return made


def test_trials_go_where_they_may_save_most(target):
    task = replace(task_of("1x1", 16, target), subgraphs=(Subgraph("f", "nn.conv2d", ("conv",), "direct"),))
    rival = waiting(task, 8, 1.0)
    assert rival.expected_gain == pytest.approx(1 / 8)
    assert waiting(task, 2, float("inf")).expected_gain == float("inf")
    # Before its fair trials, a task counts as fast as its alternative; afterwards it must be able to beat it.
    assert waiting(task, 2, 9.0, rival).expected_gain == pytest.approx(1 / 2)
    assert waiting(task, 8, 1.1, rival).expected_gain == pytest.approx(1 - 1.1 * 7 / 8)
    assert waiting(task, 8, 1.5, rival).expected_gain == 0
    assert waiting(task, 8, float("inf"), rival).expected_gain == 0


def test_a_task_gets_the_rest_of_its_first_batch_then_whole_batches(target):
    task, config = task_of("1x1", 16, target), TuneConfig(trials=8, batch=6)
    rival = waiting(task, 0, float("inf"))
    # Two algorithms of the same layers share the first batch. Donors count as trials.
    sizes = [batch_size(waiting(task, trials, 1.0, rival), config, 40) for trials in (0, 2, 3, 9)]
    assert sizes == [3, 1, 6, 6]
    assert batch_size(waiting(task, 6, 1.0), config, 4) == 4
    assert batch_size(waiting(task, 6, 1.0), config, -1) == 1
    started = [waiting(task, trials, 1.0).has_started(config) for trials in (0, 5, 6)]
    assert started == [False, False, True]
    # These need not wait for a first batch when the time is up.
    exhausted = waiting(task, 0, float("inf"))
    exhausted.exhausted = True
    assert exhausted.has_started(config)
    # A donor takes the place of the first batch if a goal tells what is left to gain.
    assert waiting(task, 1, 1.0, goal=0.5).has_started(config)
    assert not waiting(task, 1, float("inf"), goal=0.5).has_started(config)


def test_a_task_ends_when_it_or_its_alternative_is_as_fast_as_its_goal(target):
    task = task_of("1x1", 16, target)
    assert waiting(task, 1, 1.0, goal=1.0).settled
    assert not waiting(task, 1, 1.1, goal=1.0).settled
    assert waiting(task, 1, NEVER, waiting(task, 1, 0.9), goal=1.0).settled
    assert not waiting(task, 1, NEVER).settled


def test_a_task_gains_what_it_lacks_to_its_goal(target):
    task = replace(task_of("1x1", 16, target), subgraphs=(Subgraph("f", "nn.conv2d", ("conv",), "direct"),))
    near, far = waiting(task, 1, 1.1, goal=1.0), waiting(task, 1, 3.0, goal=1.0)
    assert near.expected_gain == pytest.approx(0.1)
    assert far.expected_gain == pytest.approx(2.0)
    far.trials_since_best = 5
    assert far.expected_gain == pytest.approx(3.0 / 6)
    # The layers run with the faster algorithm, which the goal must beat.
    assert waiting(task, 1, 3.0, waiting(task, 8, 1.2), goal=1.0).expected_gain == pytest.approx(0.2)


def test_tasks_with_a_goal_get_trials_until_little_is_left_to_gain(target):
    task, config = task_of("1x1", 16, target), TuneConfig(trials=16, batch=8)
    task = replace(task, subgraphs=(Subgraph("f", "nn.conv2d", ("conv",), "direct"),))
    settled, near, far = (waiting(task, 1, best, goal=1.0) for best in (0.9, 1.005, 1.5))
    assert next_search([settled, near, far], config) is far
    far.best = 1.01
    assert next_search([settled, near, far], config) is None
    far.best, far.trials_since_best = 1.5, config.early_stopping
    assert next_search([settled, near, far], config) is None


def test_tasks_without_a_goal_do_not_get_the_trials_that_the_others_leave(target):
    task, config = task_of("1x1", 16, target), TuneConfig(trials=16, batch=8)
    task = replace(task, subgraphs=(Subgraph("f", "nn.conv2d", ("conv",), "direct"),))
    settled, other = waiting(task, 1, 0.9, goal=1.0), waiting(task, 15, 1.0)
    assert next_search([settled, other], config) is other
    # One trial may save a tenth of the time of the second task; that of the third is small.
    assert next_search([settled, waiting(task, 10, 1.0)], config) is not None
    assert next_search([settled, waiting(task, 10, 0.001)], config) is None
    other.trials = 16
    assert next_search([settled, other], config) is None
    assert next_search([waiting(task, 1, 0.9), other], config) is not None


def test_a_task_without_a_solution_goes_on_beyond_its_budget(target):
    task, config = task_of("1x1", 16, target), TuneConfig(trials=8, batch=8)
    failing = waiting(task, 8, NEVER, budget=8)
    assert next_search([failing], config) is failing
    failing.failures = failing.trials = 16
    assert next_search([failing], config) is None
