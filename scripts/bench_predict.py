"""The peak memory and the time of `nas predict` on a large table.

    python scripts/bench_predict.py MODEL TABLE.csv [--rows 5000000]

The rows of TABLE (.csv or .csv.gz), whatever columns it has, are repeated to a CSV file of so many
rows in a temporary folder. Prints the size of that file, the greatest resident memory of the
command, and rows a second.
"""

from __future__ import annotations

import argparse
import gzip
import os
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model")
    parser.add_argument("table", type=Path)
    parser.add_argument("--rows", type=int, default=5_000_000)
    given = parser.parse_args()
    content = given.table.read_bytes()
    if given.table.suffix == ".gz":
        content = gzip.decompress(content)
    head, *lines = content.splitlines(keepends=True)
    with tempfile.TemporaryDirectory() as folder:
        large, out = Path(folder) / "large.csv", Path(folder) / "predictions.csv"
        with large.open("wb") as file:
            file.write(head)
            whole, rest = divmod(given.rows, len(lines))
            for _ in range(whole):
                file.writelines(lines)
            file.writelines(lines[:rest])
        del content, lines
        begin = time.monotonic()
        command = [
            sys.executable,
            "-m",
            "nas",
            "predict",
            given.model,
            str(large),
            "--out",
            str(out),
        ]
        process = os.posix_spawn(sys.executable, command, os.environ)
        _, status, used = os.wait4(process, 0)
        spent = time.monotonic() - begin
        if status:
            sys.exit(f"`nas predict` ended with {os.waitstatus_to_exitcode(status)}")
        with out.open("rb") as file:
            predicted = sum(1 for _ in file) - 1
        assert predicted == given.rows, predicted
        print(f"{given.rows:,} rows, {large.stat().st_size / 2**30:.2f} GiB")
        print(f"peak memory {used.ru_maxrss / 2**20:.2f} GiB")
        print(f"{spent:.0f} s, {given.rows / spent:,.0f} rows/s")


if __name__ == "__main__":
    main()
