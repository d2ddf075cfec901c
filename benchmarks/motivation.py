# SPDX-License-Identifier: Apache-2.0
"""Latency of pruned networks with equal multiply-accumulates before and after tuning (paper, Figure 1).

    python benchmarks/motivation.py
    python benchmarks/motivation.py --network torchvision/resnet18 --image-size 224 --variants 10
    python benchmarks/motivation.py --quick    # four variants of ResNet-8 on 16x16 images

The variants keep random shares of each layer's channels, in multiples of 8. Their multiply-accumulates differ
by at most 1 %. Each is compiled with TVM's untuned schedules, run in ONNX Runtime, and tuned: the programs of
the unpruned network are transplanted, and a short search improves them. The tables give the rank correlation
of these latencies, and how much slower the variant that is fastest before tuning is after it.

The results are in a folder in build/benchmarks/motivation: motivation.json, and motivation.html with plots.
An interrupted benchmark continues there.
"""

import argparse
import json
import shutil
from contextlib import ExitStack
from pathlib import Path

from scipy import stats
from torch import nn

from common import median, print_machine, spread
from equal_macs import Variant, draw_variants, make_variant
from peers import Peer, export_onnx
from tvm.contrib.cprune.compiler import Candidate, Compiler
from tvm.contrib.cprune.config import PruneConfig, TuneConfig
from tvm.contrib.cprune.files import replaced, write_text
from tvm.contrib.cprune.loop.console import ConsoleReport
from tvm.contrib.cprune.measuring.timing import sample_input
from tvm.contrib.cprune.models.macs import MacCounter
from tvm.contrib.cprune.models.prunable import PrunableModel
from tvm.contrib.cprune.report.axes import make_axis
from tvm.contrib.cprune.report.markup import Element, element
from tvm.contrib.cprune.report.page import document, section
from tvm.contrib.cprune.report.plot import Key, Mark, legend, plot
from tvm.contrib.cprune.targets.target import host_threads
from untrained import (
    add_options,
    build_untuned,
    folder_of,
    in_rounds,
    joined,
    make_network,
    print_estimate,
)

UNTUNED, OTHER, TUNED = KINDS = ("untuned", "ONNX Runtime", "tuned")
WHERE = {UNTUNED: "before tuning", OTHER: f"in {OTHER}"}
RUNS = 10
# For the estimate: all layers of a variant change, which takes as long as this many candidates of a run.
CANDIDATES_PER_VARIANT = 9


def rank_correlation(a: list[float], b: list[float]) -> float:
    """Return Spearman's rank correlation."""
    return float(stats.spearmanr(a, b).statistic)


def loss_of_choice(before: list[float], after: list[float]) -> float:
    """Return the latency ``after`` of the network that is fastest ``before``, over the lowest one."""
    return after[before.index(min(before))] / min(after)


def tune(compiler: Compiler, base: Candidate, model: nn.Module, trials: int, path: Path) -> None:
    """Compile a variant with transplanted programs, after a search for faster ones."""
    transplanted = compiler.transplant(base, model)
    candidate = (
        compiler.search_again(transplanted, trials, "tuned") if trials else compiler.build(transplanted)
    )
    with replaced(path) as aside:
        shutil.move(candidate.library, aside)


def prepare(
    variants: list[Variant], model: nn.Module, shape: tuple[int, ...], args: argparse.Namespace, folder: Path
) -> None:
    """Compile all variants with and without tuning, and export them, unless an earlier call did."""
    missing = [variant for variant in variants if not (folder / variant.name / "tuned.so").exists()]
    if not missing:
        return
    prunable = PrunableModel.trace(model, shape)
    # Only the starters: an empty library, which belongs to this folder.
    config = PruneConfig(tune=TuneConfig(trials=args.trials, library=str(folder / "library")))
    with ConsoleReport() as report, Compiler(config, shape, folder, report=report) as compiler:
        base = compiler.tune(model)
        for variant in missing:
            own, pruned = folder / variant.name, make_variant(variant, prunable)
            export_onnx(pruned, shape, own)
            build_untuned(pruned, shape, own / "untuned.so")
            tune(compiler, base, pruned, args.search, own / "tuned.so")
            print(f"# compiled variant {variant.name} of {len(variants)}", flush=True)


def measure(
    variants: list[Variant], shape: tuple[int, ...], rounds: int, folder: Path
) -> list[dict[str, list[float]]]:
    """Time all variants in turn, compiled both ways and in ONNX Runtime; return the samples by round."""
    data, names = sample_input(shape), [variant.name for variant in variants]
    config = PruneConfig(measure_repeats=RUNS)
    libraries = {
        f"{kind} {name}": folder / name / f"{kind}.so" for kind in (UNTUNED, TUNED) for name in names
    }
    with Compiler(config, shape, folder / "timing") as compiler, ExitStack() as processes:
        peers = {
            f"{OTHER} {name}": processes.enter_context(Peer(OTHER, folder / name, data, host_threads()))
            for name in names
        }

        def one_round() -> dict[str, list[float]]:
            ours = compiler.time_libraries(libraries)
            theirs = {name: peer.time(RUNS) for name, peer in peers.items()}
            return {**{name: list(latency.samples) for name, latency in ours.items()}, **theirs}

        return in_rounds(folder / f"rounds-{len(variants)}.jsonl", rounds, one_round)


def print_variants(variants: list[Variant], samples: dict[str, list[float]]) -> None:
    """Print the latencies of all variants."""
    print(f"\n| variant | M multiply-accumulates | {' | '.join(f'{kind}, ms' for kind in KINDS)} |")
    print("|---|---|---|---|---|")
    for variant in variants:
        own = [samples[f"{kind} {variant.name}"] for kind in KINDS]
        cells = [f"{median(values) * 1e3:.3f} ± {spread(values) * 1e3:.3f}" for values in own]
        print(f"| {variant.name} | {variant.macs / 1e6:.1f} | {' | '.join(cells)} |")


def compare(latencies: dict[str, list[float]], halves: tuple[list[float], list[float]]) -> dict[str, dict]:
    """Return for each way to choose a variant its rank correlation with the tuned latency, and its loss.

    Parameters
    ----------
    latencies
        Median latency of each variant, by kind.
    halves
        Tuned latencies in every other round, and in the rest: their agreement shows what is noise.
    """
    tuned = latencies[TUNED]
    rows = {
        kind: {
            "rank_correlation": rank_correlation(latencies[kind], tuned),
            "loss": loss_of_choice(latencies[kind], tuned),
        }
        for kind in (UNTUNED, OTHER)
    }
    rows["tuned, other rounds"] = {
        "rank_correlation": rank_correlation(*halves),
        "loss": loss_of_choice(*halves),
    }
    mean = sum(tuned) / len(tuned) / min(tuned)
    return {**rows, "at random": {"rank_correlation": 0.0, "loss": mean}}


def scatter(kind: str, latencies: dict[str, list[float]], variants: list[Variant]) -> Element:
    """Return a plot of the tuned latency against that of another kind."""
    before, after = ([seconds * 1e3 for seconds in latencies[name]] for name in (kind, TUNED))
    best, chosen = after.index(min(after)), before.index(min(before))
    symbols = {chosen: ("diamond", "run-1"), best: ("star", "run-2")}
    marks = []
    for number, variant in enumerate(variants):
        x, y = before[number], after[number]
        text = f"variant {variant.name}\n{kind} {x:.3f} ms\n{TUNED} {y:.3f} ms"
        marks.append(Mark(x, y, *symbols.get(number, ("circle", "run-0")), text))
    axes = make_axis(f"{kind} (ms)", before), make_axis(f"{TUNED} (ms)", after)
    keys = [Key(f"fastest {WHERE[kind]}", "run-1", "diamond"), Key("fastest after tuning", "run-2", "star")]
    return element("figure", legend(keys), plot(f"{TUNED} against {kind} latency", *axes, marks))


def report(variants: list[Variant], rounds: list[dict[str, list[float]]], folder: Path) -> None:
    """Print the tables, and write the results and the plots."""
    names, samples = [variant.name for variant in variants], joined(rounds)
    latencies = {kind: [median(samples[f"{kind} {name}"]) for name in names] for kind in KINDS}
    even, odd = (joined(rounds[start::2]) for start in (0, 1))
    halves = ([median(half[f"{TUNED} {name}"]) for name in names] for half in (even, odd))
    rows = compare(latencies, tuple(halves))
    print_variants(variants, samples)
    print("\n| chosen by | rank correlation | tuned latency over the lowest |\n|---|---|---|")
    for name, row in rows.items():
        print(f"| {name} | {row['rank_correlation']:.2f} | {row['loss']:.3f} |", flush=True)
    table = {
        "variants": [
            {**variant._asdict(), **{kind: samples[f"{kind} {variant.name}"] for kind in KINDS}}
            for variant in variants
        ],
        "choices": rows,
    }
    write_text(folder / "motivation.json", json.dumps(table, indent=1))
    sections = [
        section(
            f"Tuned and {kind}",
            f"Latency of {len(variants)} pruned networks with equal multiply-accumulates. The rank "
            f"correlation is {rows[kind]['rank_correlation']:.2f}. The network that is fastest {WHERE[kind]} "
            f"takes {rows[kind]['loss']:.3f} times as long as the fastest one after tuning.",
            scatter(kind, latencies, variants),
        )
        for kind in (UNTUNED, OTHER)
    ]
    write_text(folder / "motivation.html", document("Latency before and after tuning", *sections))
    print(f"\nwrote motivation.json and motivation.html in {folder}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--variants", type=int, default=20, help="default: %(default)s")
    parser.add_argument(
        "--search", type=int, default=2, help="trials per task of each variant (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=8, help="default: %(default)s, at least 2")
    parser.add_argument("--quick", action="store_true", help="four variants of ResNet-8, 4 trials per task")
    args = parser.parse_args()
    if args.quick:
        args.network, args.image_size, args.trials, args.search = "resnet8", 16, 4, 0
        args.variants, args.rounds = 4, 2
    print_machine()
    model, shape = make_network(args)
    searched = args.variants * args.search / args.trials
    print_estimate(model, args, 1 + searched, 0, CANDIDATES_PER_VARIANT * args.variants)
    counter = MacCounter.of(model, shape, PrunableModel.trace(model, shape).groups())
    variants = draw_variants(counter, args.macs, args.variants)
    folder = folder_of("motivation", args, args.search)
    prepare(variants, model, shape, args, folder)
    report(variants, measure(variants, shape, args.rounds, folder), folder)


if __name__ == "__main__":
    main()
