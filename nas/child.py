"""``python -m nas.child …`` is the command ``nas`` in a process that ends with the one that has
started it, whose number is in ``NAS_PARENT``."""

from __future__ import annotations

import os
import runpy
import signal
import sys
import traceback

PARENT = "NAS_PARENT"
CRASHED = 70  # exit code of an exception that is no mistake of the user's


def end_with(parent: int) -> None:
    """Have this process killed where its parent ends, and let it hear Ctrl-C, which Ray blocks."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


def main() -> None:
    end_with(int(os.environ[PARENT]))
    try:
        runpy.run_module("nas", run_name="__main__", alter_sys=True)
    except Exception:
        traceback.print_exc()
        sys.exit(CRASHED)


if __name__ == "__main__":
    main()
