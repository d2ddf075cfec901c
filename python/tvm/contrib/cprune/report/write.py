# SPDX-License-Identifier: Apache-2.0
"""Write the report of one run or of several."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tvm.contrib.cprune.files import write_text
from tvm.contrib.cprune.report.comparison import comparison_page
from tvm.contrib.cprune.report.read import read_run
from tvm.contrib.cprune.report.run_page import run_page


def write_report(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Write one HTML page about the runs in some folders, finished or not.

    Parameters
    ----------
    out
        File to write. The default is ``report.html``, in the folder of a single run, or in the current
        folder.

    Returns
    -------
    path
        The file.

    Raises
    ------
    CPruneError
        If a folder holds no run, or a damaged one.
    """
    runs = [read_run(folder) for folder in folders]
    names = [run.name for run in runs]
    runs = [
        run if names.count(run.name) == 1 else replace(run, name=str(folder))
        for run, folder in zip(runs, folders, strict=True)
    ]
    if len(runs) == 1:
        page, default = run_page(runs[0]), folders[0] / "report.html"
    else:
        page, default = comparison_page(runs), Path("report.html")
    path = out or default
    write_text(path, page)
    return path
