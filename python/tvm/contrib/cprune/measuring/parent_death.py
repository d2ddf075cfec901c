# SPDX-License-Identifier: Apache-2.0
"""Processes that do not outlive their parent."""

import ctypes
import os
import signal
import sys

# Of Linux's <sys/prctl.h>: the signal that a process receives when its parent ends.
_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Let Linux kill this process when its parent ends, even if it never returns to Python.

    On other systems, the process only ends if its parent has ended already.

    Parameters
    ----------
    parent
        Process id of the parent, which must fork from its main thread: the signal comes when the thread ends.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)
