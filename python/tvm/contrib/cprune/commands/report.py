# SPDX-License-Identifier: Apache-2.0
"""Write the HTML report of a run, or compare several runs.

    python -m tvm.contrib.cprune report runs/mine                      # writes runs/mine/report.html
    python -m tvm.contrib.cprune report runs/first runs/second         # compares them in report.html
    python -m tvm.contrib.cprune report runs/* --out comparison.html

A run writes its report when it ends. For a run that is in progress or was interrupted, the report shows what
its journal says so far. The page is a single file that needs no network: mail it or keep it with the results.
"""

import argparse
from pathlib import Path

from tvm.contrib.cprune.report.write import write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command to its parser."""
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("-h", "--help", action="help", help="show this help message and exit")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="file to write (default: report.html, in the folder of a single run, or in the current folder)",
    )


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Raises
    ------
    CPruneError
        If a folder holds no run, or a damaged one.
    """
    print(write_report(options.runs, options.out))
