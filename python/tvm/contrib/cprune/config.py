# SPDX-License-Identifier: Apache-2.0
"""Every setting with its default, its documentation and its valid range.

The command-line options and their help are derived from these classes (see ``options.py``).
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from tvm.contrib.cprune.checks import SettingError, check_choice, check_fields
from tvm.contrib.cprune.method_settings import METHODS, MethodName, check_method
from tvm.contrib.cprune.types import TunerName

Importance = Literal["l1", "l2", "fpgm", "taylor", "bn-scale", "random"]
StepRule = Literal["joint", "paper"]
Strategy = Literal["xgb", "xgb-rank", "xgb-knob", "ga", "random", "gridsearch"]

IMPORTANCES: tuple[Importance, ...] = get_args(Importance)
STEP_RULES: tuple[StepRule, ...] = get_args(StepRule)
TUNERS: tuple[TunerName, ...] = get_args(TunerName)
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

# Rules that Algorithm 1 does not have: the step rule "paper" turns them off.
SOFT_STEPS = ("retry_smaller", "partial_fit", "larger_steps")
# Default of PruneConfig.hopeless. It is low because a short training recovers much of what a step costs. A
# quarter of the required accuracy is hardly more than that of a random guess among a few classes.
HOPELESS = 0.25


@dataclass(frozen=True)
class TuneConfig:
    """How to search for programs and measure them.

    Attributes
    ----------
    tuner
        Search backend: "ansor" (TVM's auto_scheduler) or "autotvm".
    strategy
        How AutoTVM selects the programs to measure: by a cost model (xgb, xgb-rank, xgb-knob), by a genetic
        algorithm (ga), at random, or in order (gridsearch). xgb-knob predicts from the values of the knobs,
        xgb and xgb-rank from the loops, so that they have to lower every program that they rank. Ansor
        ignores it.
    transfer
        File of AutoTVM records, of any tasks, to train the cost model on before the search. Requires the
        strategy xgb or xgb-rank.
    trials
        Average number of programs to measure per task. Ansor gives more of them to the costlier tasks.
    early_stopping
        Stop searching a task after this many trials without a faster program.
    max_seconds
        Time limit for each search, in seconds; 0 means no limit.
    batch
        Number of programs to compile and measure together.
    population
        Population of Ansor's evolutionary search; 0 means 32 per core. With Ansor's default of
        2048, ranking takes longer than compiling the selected programs.
    threads
        Number of threads that run the model. 0 means all cores available to this process or, on a remote
        device, TVM's default there.
    cold_weights
        Flush the weights from the CPU cache before each run, because a large model evicts them between
        layers.
    repeats
        Number of timed runs of each program, after one warm-up run.
    min_seconds
        Minimum total run time of each program, in seconds. Short programs run up to 10 times as often to
        reach it.
    build_timeout
        Time limit for compiling one program, in seconds.
    run_timeout
        Time limit for measuring one program, in seconds.
    library
        Folder of the tuned programs that a first search starts from and adds to; "none" turns it off. The
        default is the environment variable CPRUNE_LIBRARY, or else cprune/programs in the user's cache
        directory.
    """

    tuner: TunerName = "ansor"
    strategy: Strategy = "xgb"
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
    library: str = ""

    def __post_init__(self) -> None:
        check_choice(self, "tuner", TUNERS)
        check_choice(self, "strategy", STRATEGIES)
        counts = ("trials", "early_stopping", "batch", "repeats")
        check_fields(self, counts, lambda value: value >= 1, "at least 1")
        optional = ("max_seconds", "population", "threads", "min_seconds")
        check_fields(self, optional, lambda value: value >= 0, "0 or more")
        check_fields(self, ("build_timeout", "run_timeout"), lambda value: value > 0, "more than 0")


@dataclass(frozen=True)
class PruneConfig:
    """Settings of a pruning method.

    ``alpha``, ``beta``, ``max_iterations``, ``max_sparsity`` and ``latency_floor`` default to the values in
    the authors' implementation of CPrune. A setting that the method does not use must keep its default (see
    ``method_settings``).

    Attributes
    ----------
    accuracy_requirement
        Minimum validation accuracy of the pruned model, from 0 to 1 (a_min in the paper).
    alpha
        Minimum ratio of a candidate's accuracy to that of the last accepted model (alpha in the paper).
    beta
        Maximum ratio of a candidate's latency to that of the last accepted model (beta in the paper).
    importance
        Criterion that ranks the channels of a layer. The least important channels are pruned first.
    step_rule
        How many channels to prune per step: "joint" selects a width that fits the programs of all affected
        layers, "paper" follows section 3.3 of the paper.
    retry_smaller
        If a candidate loses too much accuracy, prune its channel groups one by one. A group that still loses
        too much is tried once more at a width halfway, then excluded. Off with the step rule "paper".
    hopeless
        Reject a candidate without training it if its accuracy before the training, with new batch-norm
        statistics, is below this fraction of the required accuracy; 0 trains every candidate. The default is
        0.25, or 0 with the step rule "paper" and for trainings that do not re-estimate the statistics.
    partial_fit
        If no width above half of the channels fits all programs that use a group of channels, measure up to
        three widths that fit the costliest programs, and prune to the fastest. Off with the step rule
        "paper".
    larger_steps
        After a candidate that lost little of the accuracy that alpha allows, move down twice as many fitting
        widths in the next step. If that step is rejected, the smallest one follows. Off with the step rule
        "paper".
    max_iterations
        Maximum number of candidates to evaluate. For the method netadapt, maximum number of iterations; each
        evaluates a candidate for every channel group.
    max_sparsity
        Maximum fraction of a layer's channels to prune.
    layer_sparsity
        The same for individual layers, as pairs of layer name and fraction.
    min_width
        Minimum number of channels to keep in each layer.
    latency_floor
        Stop when the latency falls to this fraction of the unpruned model's latency.
    speedup_goal
        Stop when the model runs this many times as fast as the unpruned one; 0 means no goal. For the method
        knapsack, this is the budget.
    macs_goal
        Fraction of the multiply-accumulates to keep, for the methods uniform and global, which need it.
    round_widths
        Round the widths of the method uniform to the nearest ones that fit the tuned programs.
    latency_goal
        Latency budget of the method knapsack in milliseconds; it needs this or a speedup.
    latency_cut
        Fraction of the latency that each iteration of the method netadapt removes.
    max_seconds
        Time limit for pruning, in seconds; 0 means no limit.
    include
        Names of the layers to prune; empty means all.
    exclude
        Names of layers that must not be pruned.
    variants
        Maximum number of programs to measure when a transplant has to change tile factors.
    measure_repeats
        Number of timed runs of the whole model per latency measurement.
    seed
        Seed of all random choices.
    tune
        How to search for programs and measure them.
    final_trials
        Average trials per task of the final search, for the unpruned and the pruned model; 0 turns it off.
        Trials of earlier searches count towards it. knapsack also searches for every candidate.
    method
        What decides the widths. cprune: the tuned programs, step by step; progressive: half of the latency at
        a time; knapsack: a latency budget; netadapt: the accuracy after equal cuts of latency; uniform: one
        factor for all layers; global: one ranking of all channels.
    """

    accuracy_requirement: float = 0.0
    alpha: float = 0.995
    beta: float = 0.99
    importance: Importance = "l1"
    step_rule: StepRule = "joint"
    retry_smaller: bool = True
    partial_fit: bool = True
    larger_steps: bool = True
    hopeless: float | None = None
    max_iterations: int = 100
    max_sparsity: float = 0.8
    layer_sparsity: tuple[tuple[str, float], ...] = ()
    min_width: int = 8
    latency_floor: float = 0.1
    speedup_goal: float = 0
    macs_goal: float = 0
    round_widths: bool = False
    latency_goal: float = 0
    latency_cut: float = 0.05
    max_seconds: float = 0
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    variants: int = 3
    measure_repeats: int = 60
    seed: int = 0
    tune: TuneConfig = field(default_factory=TuneConfig)
    final_trials: int = 0
    method: MethodName = "cprune"

    def __post_init__(self) -> None:
        check_choice(self, "method", METHODS)
        check_choice(self, "importance", IMPORTANCES)
        check_choice(self, "step_rule", STEP_RULES)
        check_fields(self, ["accuracy_requirement"], lambda value: 0 <= value <= 1, "0 to 1")
        check_fields(self, ["hopeless"], lambda value: value is None or 0 <= value <= 1, "0 to 1")
        check_fields(self, ("alpha", "beta"), lambda value: 0 < value <= 1, "more than 0 and at most 1")
        check_fields(self, ["latency_floor"], lambda value: 0 <= value < 1, "at least 0 and less than 1")
        check_fields(self, ["speedup_goal"], lambda value: value == 0 or value > 1, "0 or more than 1")
        check_fields(self, ["macs_goal"], lambda value: 0 <= value < 1, "at least 0 and less than 1")
        check_fields(self, ["latency_goal"], lambda value: value >= 0, "0 or more")
        check_fields(self, ["latency_cut"], lambda value: 0 < value < 1, "more than 0 and less than 1")
        counts = ("max_iterations", "min_width", "variants", "measure_repeats")
        check_fields(self, counts, lambda value: value >= 1, "at least 1")
        check_fields(self, ("max_seconds", "seed", "final_trials"), lambda value: value >= 0, "0 or more")
        sparsities = {"max_sparsity": self.max_sparsity}
        sparsities.update((f"layer_sparsity of {layer}", share) for layer, share in self.layer_sparsity)
        for name, value in sparsities.items():
            if not 0 < value < 1:
                raise SettingError(name, value, "more than 0 and less than 1")
        check_method(self)
        if self.step_rule == "paper":
            for name in SOFT_STEPS:
                object.__setattr__(self, name, False)

    def sparsity_of(self, layer: str) -> float:
        """Return the maximum fraction of a layer's channels to prune."""
        return dict(self.layer_sparsity).get(layer, self.max_sparsity)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as nested dictionaries."""
        return asdict(self)
