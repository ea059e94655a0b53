"""``python -m nas.child …`` is the command ``nas`` in a process that ends with the one that has
started it, whose number is in ``NAS_PARENT``."""

from __future__ import annotations

import os
import runpy
import signal
import sys
import traceback

PARENT = "NAS_PARENT"
_OPTIONS = "NAS_TRAIN_"  # begins the variables that are options of ``nas train``
CRASHED = 70  # exit code of an exception that is no mistake of the user's


def environment() -> dict[str, str]:
    """The variables of a process that trains for this one, by the options of its command alone."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(_OPTIONS)}
    return own | {PARENT: str(os.getpid())}


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
    torch = sys.modules.get("torch")
    if torch is not None:  # imported before a fork, with the threads of the process before
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    try:
        runpy.run_module("nas", run_name="__main__", alter_sys=True)
    except Exception:
        traceback.print_exc()
        sys.exit(CRASHED)


if __name__ == "__main__":
    main()
