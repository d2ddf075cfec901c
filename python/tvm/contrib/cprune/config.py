# SPDX-License-Identifier: Apache-2.0
"""All settings with their defaults, in one place; the command line reads them from here."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tvm.contrib.cprune.types import CPruneError

IMPORTANCES = ("l1", "l2", "fpgm", "taylor", "bn-scale", "random")
STEP_RULES = ("joint", "paper")
TUNERS = ("ansor", "autotvm")
STRATEGIES = ("xgb", "xgb-rank", "ga", "random", "gridsearch")


def _check(condition: bool, name: str, value: Any, expected: str) -> None:
    if not condition:
        raise CPruneError(f"{name} is {value!r}, expected {expected}")


@dataclass(frozen=True)
class TuneConfig:
    """How programs are searched and timed.

    Attributes
    ----------
    tuner
        "ansor" (auto_scheduler) or "autotvm".
    strategy
        How AutoTVM chooses what to try: one of its tuners.
    transfer
        A file of AutoTVM records, of any tasks, that the learning tuners start from.
    trials
        Programs to measure for each task, on average: tasks that cost more get more. A convolution that could
        be direct or Winograd is two tasks; once one of them is far behind the other gets its trials.
    early_stopping
        Stop a task after this many trials without a better program.
    max_seconds
        Time budget of one tuning phase; 0 means none.
    batch
        Programs that are built and measured together.
    population
        Size of the evolutionary search's population; 0 means 64 for each core. (Ansor's own default is 2048,
        which takes longer to rank than the programs to compile.)
    threads
        Threads that the model will run on; 0 means every core this process may use.
    cold_weights
        Flush weights from the cache before each run, as they are when a layer's turn comes in a large model.
    repeats
        Timed runs of each program, after one that is not counted.
    min_seconds
        A program is timed more often, up to ten times as often, until its runs last so long together.
    build_timeout, run_timeout
        Seconds after which a program counts as failed.
    """

    tuner: Literal["ansor", "autotvm"] = "ansor"
    strategy: Literal["xgb", "xgb-rank", "ga", "random", "gridsearch"] = "xgb"
    transfer: str = ""
    trials: int = 16
    early_stopping: int = 64
    max_seconds: float = 0
    batch: int = 8
    population: int = 0
    threads: int = 0
    cold_weights: bool = True
    repeats: int = 9
    min_seconds: float = 0
    build_timeout: float = 30
    run_timeout: float = 15

    def __post_init__(self) -> None:
        _check(self.tuner in TUNERS, "tuner", self.tuner, f"one of {', '.join(TUNERS)}")
        _check(self.strategy in STRATEGIES, "strategy", self.strategy, f"one of {', '.join(STRATEGIES)}")
        for name in ("trials", "early_stopping", "batch", "repeats"):
            _check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("max_seconds", "min_seconds", "threads", "population"):
            _check(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")


@dataclass(frozen=True)
class PruneConfig:
    """What Algorithm 1 is asked for. ``alpha``, ``beta``, the cap and the limits default to the paper's
    values.

    Attributes
    ----------
    accuracy_requirement
        Validation accuracy in [0, 1] below which no candidate is accepted (``a_min``).
    alpha
        Least share of the last accepted accuracy that a candidate must keep.
    beta
        Share of the last accepted latency that a candidate must reach.
    step_rule
        ``joint`` or ``paper``: how far one step prunes (see ``step.py``).
    max_sparsity
        Share of a layer's channels that may go.
    layer_sparsity
        The same for single layers, as pairs of name and share.
    min_width
        Channels that every layer keeps.
    latency_floor
        Stop when the latency has fallen to this share of the first one.
    speedup_goal
        Stop when the model is this many times as fast; 0 means never.
    include, exclude
        Names of layers to prune, empty for all, and of layers to leave alone.
    variants
        Programs to try where a transplanted one must change its tile factors.
    measure_repeats
        Timed runs of a whole model for one decision.
    seed
        Where every random choice comes from.
    tune
        How programs are searched and timed.
    final_trials
        Search trials for the final model, in all.
    """

    accuracy_requirement: float = 0.0
    alpha: float = 0.995
    beta: float = 0.99
    importance: Literal["l1", "l2", "fpgm", "taylor", "bn-scale", "random"] = "l1"
    step_rule: Literal["joint", "paper"] = "joint"
    max_iterations: int = 100
    max_sparsity: float = 0.8
    layer_sparsity: tuple[tuple[str, float], ...] = ()
    min_width: int = 8
    latency_floor: float = 0.1
    speedup_goal: float = 0
    max_seconds: float = 0
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    variants: int = 3
    measure_repeats: int = 60
    seed: int = 0
    tune: TuneConfig = field(default_factory=TuneConfig)
    final_trials: int = 0

    def __post_init__(self) -> None:
        _check(
            0 <= self.accuracy_requirement <= 1, "accuracy_requirement", self.accuracy_requirement, "0 to 1"
        )
        _check(0 < self.alpha <= 1, "alpha", self.alpha, "above 0, at most 1")
        _check(0 < self.beta <= 1, "beta", self.beta, "above 0, at most 1")
        _check(
            self.importance in IMPORTANCES, "importance", self.importance, f"one of {', '.join(IMPORTANCES)}"
        )
        _check(self.step_rule in STEP_RULES, "step_rule", self.step_rule, f"one of {', '.join(STEP_RULES)}")
        _check(0 < self.max_sparsity < 1, "max_sparsity", self.max_sparsity, "between 0 and 1")
        for layer, share in self.layer_sparsity:
            _check(0 < share < 1, f"layer_sparsity of {layer}", share, "between 0 and 1")
        for name in ("max_iterations", "min_width", "variants", "measure_repeats"):
            _check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")

    def sparsity_of(self, layer: str) -> float:
        """Return the share of a layer's channels that may go."""
        return dict(self.layer_sparsity).get(layer, self.max_sparsity)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
