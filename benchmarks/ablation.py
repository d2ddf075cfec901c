# SPDX-License-Identifier: Apache-2.0
"""What each part of CPrune contributes: pruning without it, by latency alone (paper, section 4).

    python benchmarks/ablation.py
    python benchmarks/ablation.py --network torchvision/resnet18 --image-size 224 --candidates 8
    python benchmarks/ablation.py --quick    # ResNet-8 on 16x16 images, two candidates, one new search

A network with random weights is tuned once. Each variant of CPrune prunes it from there, without training:
the share of the multiply-accumulates (MACs) that remain takes the place of the accuracy.

cprune        the defaults
one subgraph  prunes one subgraph of a task at a time instead of all
untuned       decides by TVM's untuned programs, and tunes the pruned network at the end
joint         the step rule "joint" without the rules for soft steps
paper         the step rule "paper", which has no soft steps

The final networks are timed in turn. The column "over cprune" compares with the latency of cprune at the same
MACs, interpolated between its accepted candidates.

A second table compares transplants with a new search for the changed tasks of each candidate, at the widths
of the first candidates of cprune. Rows that were not measured are extrapolated. Goals: 20 times fewer trials
and a tenth of the time, at a latency within 3 %.

The results are in a folder in build/benchmarks/ablation: ablation.json, and ablation.html with a plot. An
interrupted benchmark continues there.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from torch import nn

from ablation_runs import FULL, JOURNAL, UNPRUNED, VARIANTS, Pruned, prune, settings_of, tune_first
from common import latency_at, median, print_machine, spread
from new_search import (
    Cost,
    cost_of_searches,
    cost_of_transplants,
    search_candidates,
    timed_candidates,
    transplanted,
    widths_by_candidate,
)
from tvm.contrib.cprune.compiler import Compiler
from tvm.contrib.cprune.config import PruneConfig
from tvm.contrib.cprune.files import write_text
from tvm.contrib.cprune.loop.journal import Journal
from tvm.contrib.cprune.report.charts import Series, accuracy_latency
from tvm.contrib.cprune.report.page import document, section
from tvm.contrib.cprune.report.plot import Key, Mark
from untrained import add_options, folder_of, in_rounds, joined, make_network, print_estimate

# A candidate with both kinds of programs, and the folder of the first tuning.
TRANSPLANTED, SEARCHED = "transplanted", "searched"
FIRST = "first"
RUNS = 20
# For the estimate: tasks that a candidate changes.
CHANGED_TASKS = 5


class Search(NamedTuple):
    """Where the programs of some candidates come from, what they cost, and whether that was measured."""

    programs: str
    measured: bool
    cost: Cost


class Row(NamedTuple):
    """A variant: what its pruned network keeps and takes, and what the pruning cost."""

    variant: str
    macs: float
    latency_ms: float
    spread_ms: float
    over_cprune: float | None
    candidates: int
    accepted: int
    trials: int
    seconds: float


def path_of(run: Pruned, final: float) -> list[tuple[float, float]]:
    """Return the share of the multiply-accumulates and the latency of each accepted candidate.

    Parameters
    ----------
    final
        Latency of the final network, which is the last of them. Those of the others follow from speedups.
    """
    accepted = [event for event in run.events if event["event"] == "candidate" and event["accepted"]]
    unpruned = final * (accepted[-1]["speedup"] if accepted else 1.0)
    return [(1.0, unpruned), *((event["accuracy_val"], unpruned / event["speedup"]) for event in accepted)]


def rows_of(runs: dict[str, Pruned], samples: dict[str, list[float]]) -> list[Row]:
    """Return the row of each variant."""
    points, rows = path_of(runs[FULL], median(samples[FULL])), []
    for name, run in runs.items():
        latency, share = median(samples[name]), run.result["pruned"]["accuracy_val"]
        equal = latency_at(share, points)
        rows.append(
            Row(
                name,
                share,
                latency * 1e3,
                spread(samples[name]) * 1e3,
                latency / equal if equal else None,
                len(run.result["iterations"]),
                run.result["accepted"],
                run.trials,
                run.seconds,
            )
        )
    return rows


def compare_searches(
    model: nn.Module, shape: tuple[int, ...], config: PruneConfig, args: argparse.Namespace, folder: Path
) -> tuple[list[Search], dict[str, Path]]:
    """Search new programs for the first candidates of cprune.

    Returns
    -------
    The rows of the table, and the last of these candidates compiled both ways.
    """
    run = folder / FULL
    every = timed_candidates(Journal(run / JOURNAL).events)
    first, count = every[: args.searched], len(every)
    if not first:
        raise SystemExit(f"{run}: no candidate was timed")
    widths = widths_by_candidate(first)
    tune = replace(config.tune, trials=args.search_trials, early_stopping=args.search_trials)
    searching = replace(config, tune=tune)
    events, library = search_candidates(model, shape, searching, widths, folder / FIRST, folder / SEARCHED)
    changed, all_tasks = (cost_of_searches(events, whole) for whole in (False, True))
    rows = [
        Search("transplants", True, cost_of_transplants(first)),
        Search("new search of the changed tasks", True, changed),
        Search("transplants", True, cost_of_transplants(every)),
        Search("new search of the changed tasks", False, changed.extrapolated(count)),
        Search("new search of all tasks, as the original", False, all_tasks.extrapolated(count)),
    ]
    moved = transplanted(model, shape, config, widths[-1], run)
    return rows, {TRANSPLANTED: moved, SEARCHED: library}


def print_rows(rows: list[Row]) -> None:
    """Print the table of the variants."""
    print(
        "\n| variant | MACs | latency, ms | over cprune | candidates (accepted) | trials | seconds |\n"
        "|---|---|---|---|---|---|---|"
    )
    for row in rows:
        latency = f"{row.latency_ms:.3f} ± {row.spread_ms:.3f}"
        equal = "-" if row.over_cprune is None else f"{row.over_cprune:.3f}"
        counts = f"{row.candidates} ({row.accepted}) | {row.trials} | {row.seconds:.0f}"
        print(f"| {row.variant} | {row.macs:.3f} | {latency} | {equal} | {counts} |")


def print_searches(rows: list[Search], samples: dict[str, list[float]]) -> None:
    """Print the table of the searches, and what transplants save."""
    print("\n| programs from | candidates | trials | seconds | |\n|---|---|---|---|---|")
    for programs, measured, cost in rows:
        kind = "measured" if measured else "extrapolated"
        print(f"| {programs} | {cost.candidates} | {cost.trials:.0f} | {cost.seconds:.0f} | {kind} |")
    ours, new = rows[0].cost, rows[1].cost
    seconds = {name: median(samples[name]) for name in (TRANSPLANTED, SEARCHED)}
    text = ", ".join(f"{value * 1e3:.3f} ms {name}" for name, value in seconds.items())
    print(
        f"\nnew search over transplants, candidates 1 to {ours.candidates}: "
        f"{new.trials / max(1, ours.trials):.1f} times the trials, {new.seconds / ours.seconds:.1f} times "
        f"the time; latency of the last one: {text}, ratio {seconds[TRANSPLANTED] / seconds[SEARCHED]:.3f}"
    )


def plot(runs: dict[str, Pruned], samples: dict[str, list[float]]) -> list[Series]:
    """Return the series of the plot: the accepted candidates of each variant, and its final network."""
    series = []
    for number, (name, run) in enumerate(runs.items()):
        color = f"run-{number}"
        # Candidates of untuned programs take another time than the tuned network.
        tuned = not any(event["event"] == "untuned" for event in run.events)
        points = [
            (share, latency, "circle") for share, latency in path_of(run, median(samples[name])) if tuned
        ]
        points.append((run.result["pruned"]["accuracy_val"], median(samples[name]), "star"))
        marks = [
            Mark(latency * 1e3, share, symbol, color, f"{name}\n{latency * 1e3:.3f} ms, MACs {share:.3f}")
            for share, latency, symbol in points
        ]
        series.append(Series(name, color, tuple(marks)))
    return series


def report(
    runs: dict[str, Pruned], searches: list[Search], samples: dict[str, list[float]], folder: Path
) -> None:
    """Print the tables, and write the results and the plot."""
    rows = rows_of(runs, samples)
    print(f"\nunpruned: {median(samples[UNPRUNED]) * 1e3:.3f} ± {spread(samples[UNPRUNED]) * 1e3:.3f} ms")
    print_rows(rows)
    print_searches(searches, samples)
    table = {
        "variants": [row._asdict() for row in rows],
        "searches": [{**row._asdict(), "cost": asdict(row.cost)} for row in searches],
        "latency_s": samples,
    }
    write_text(folder / "ablation.json", json.dumps(table, indent=1))
    keys = [Key("accepted candidate", "neutral", "circle"), Key("final network", "neutral", "star")]
    chart = accuracy_latency("Variants of CPrune", plot(runs, samples), keys, "share of the MACs")
    text = "Multiply-accumulates that remain, and latency, of the networks that each variant accepts."
    write_text(folder / "ablation.html", document("Ablation", section("Variants of CPrune", text, chart)))
    print(f"\nwrote ablation.json and ablation.html in {folder}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    for name, default, text in (
        ("--candidates", 12, "candidates of each variant"),
        ("--searched", 3, "candidates with a new search"),
        ("--search-trials", 70, "trials per task of a new search"),
        ("--rounds", 8, "rounds of timing"),
    ):
        parser.add_argument(name, type=int, default=default, help=f"{text} (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="ResNet-8, two candidates, one new search")
    args = parser.parse_args()
    if args.quick:
        args.network, args.image_size, args.trials, args.candidates = "resnet8", 16, 4, 2
        args.searched, args.search_trials, args.rounds = 1, 8, 2
    print_machine()
    model, shape = make_network(args)
    searches = args.searched * CHANGED_TASKS * args.search_trials
    print_estimate(model, args, 2, searches, len(VARIANTS) * args.candidates)
    folder = folder_of("ablation", args, args.candidates, args.searched, args.search_trials)
    config = settings_of(args, folder / "library")
    tune_first(model, shape, config, folder / FIRST)
    runs = {}
    for variant in VARIANTS:
        own = settings_of(args, folder / "library", **variant.settings)
        runs[variant.name] = prune(variant, model, shape, own, folder / FIRST, folder / variant.name)
    rows, libraries = compare_searches(model, shape, config, args, folder)
    libraries |= {name: run.library for name, run in runs.items()} | {
        UNPRUNED: folder / FIRST / "unpruned.so"
    }
    timing = PruneConfig(measure_repeats=RUNS)
    with Compiler(timing, shape, folder / "timing") as compiler:
        rounds = in_rounds(
            folder / "rounds.jsonl",
            args.rounds,
            lambda: {name: list(t.samples) for name, t in compiler.time_libraries(libraries).items()},
        )
    report(runs, rows, joined(rounds), folder)


if __name__ == "__main__":
    main()
