"""What an experiment has finished: one JSON object a line of WORK/results.jsonl, so that an
interrupted experiment continues where it was."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np


class Results:
    """The lines of ``work``/results.jsonl; one that a killed process left half is not read."""

    def __init__(self, work: Path) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self._file = work / "results.jsonl"
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        self.rows: list[dict[str, Any]] = [json.loads(x) for x in lines if x.endswith("}")]

    def having(self, **known: Any) -> list[dict[str, Any]]:
        """The rows with these values."""
        return [row for row in self.rows if known.items() <= row.items()]

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row, and print it on standard error."""
        self.rows.append(row)
        line = json.dumps(row, default=np.ndarray.tolist)
        with self._file.open("a") as file:
            file.write(line + "\n")
        print(line, file=sys.stderr, flush=True)


def mean_and_error(scores: list[float], digits: int = 4) -> str:
    """The mean, its standard error, and of how many."""
    if not scores:
        return "none"
    error = stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else math.nan
    return f"{fmean(scores):,.{digits}f} ± {error:,.{digits}f} ({len(scores)})"
