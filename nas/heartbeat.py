"""Signs of life that a process gives to whoever watches it.

A beat goes out each second in which the watched thread gets ahead: where it is elsewhere in the
code than a second ago, has counted a step, or where the process computes. So a process that is
stopped gives none; nor does a call that neither returns nor computes (a network drive that is
gone), nor one that computes for ``COMPUTING_S`` without coming back (a GPU that hangs: CUDA waits
by spinning).
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Seconds between beats, and the longest single call that counts as computing.
BEAT_S = 1.0
COMPUTING_S = 900.0

_steps = 0
_waiting = 0


def step() -> None:
    """Count a step of a training, which may look like the one before in every other way."""
    global _steps
    _steps += 1


@contextmanager
def waiting() -> Iterator[None]:
    """Within, this process waits for another one that may take long: that is no hang."""
    global _waiting
    _waiting += 1
    try:
        yield
    finally:
        _waiting -= 1


class Heartbeat:
    """Calls ``beat`` from a thread of its own, while it is ``active``, for the thread that has
    made it."""

    def __init__(self, beat: Callable[[], None]) -> None:
        self.active = True
        self._beat, self._watched = beat, threading.get_ident()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        place: object = None
        computed = moved_at = 0.0
        while True:
            time.sleep(BEAT_S)
            now, before, computed_before = time.monotonic(), place, computed
            place, computed = self._place(), time.process_time()
            if place != before:
                moved_at = now
            computes = computed - computed_before > 0.1 * BEAT_S and now - moved_at < COMPUTING_S
            if self.active and (_waiting or computes or moved_at == now):
                try:
                    self._beat()
                except OSError:
                    os._exit(0)  # nobody listens any more

    def _place(self) -> object:
        """Where the watched thread is, and how many steps it has counted."""
        frame = sys._current_frames().get(self._watched)
        found: list[object] = [_steps]
        while frame is not None:
            found += (frame.f_code, frame.f_lasti)
            frame = frame.f_back
        return found
