"""Time and peak memory of reading data, as ratios to a reference measured in the same run.

    python scripts/bench_read.py [--data FOLDER] [--before CHECKOUT] [--rows 2000000] [--repeats 3]

Two tables are printed. A CSV of 2 million rows by 20 columns is read by ``nas.data.read`` and by
``pandas.read_csv``: the ratio of their times, and the peak memory beside what the frame holds.
With --before, a checkout of another commit, the data sets of FOLDER are read by both, in turns,
and the ratio of the best times is printed. Each measurement is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETS = {
    "adult": ("tabular/adult", "income"),
    "sst2": ("text/sst2", "label"),
    "sign_digits": ("images/sign_digits", None),
    "fsdd": ("audio/fsdd", None),
    "cora": ("graphs/cora", None),
}
# Each prints one JSON object: seconds, and MiB at its peak above what the imports take.
READ = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import numpy, pandas
import nas.data, nas.data.sources, nas.data.multimodal, nas.data.targets, nas.data.warnings
small = pandas.DataFrame({"a": range(50), "b": list("abcde") * 10, "y": [0, 1] * 25})
nas.data.read(small, target="y")
def now():  # not ru_maxrss, which begins with what the parent held
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
before, begin = now(), time.perf_counter()
"""
OURS = READ + "nas.data.read(sys.argv[1], target=sys.argv[2] or None)\n"
PANDAS = READ + "frame = pandas.read_csv(sys.argv[1])\n"
END = "print(json.dumps([time.perf_counter() - begin, now() - before]))"
FRAME = (
    "import pandas, sys; f = pandas.read_csv(sys.argv[1]); print(f.memory_usage(deep=True).sum())"
)


def run(code: str, *arguments: str, root: Path = ROOT) -> list[float]:
    """The seconds and the MiB that ``code`` prints, with the package of ``root``."""
    done = subprocess.run(
        [sys.executable, "-c", code + END, *arguments],
        env=os.environ | {"PYTHONPATH": str(root)},
        cwd=tempfile.gettempdir(),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stderr)
    seconds, mebibytes = json.loads(done.stdout)
    return [seconds, mebibytes]


def write_table(file: Path, rows: int) -> None:
    """12 columns of decimals, 4 of integers, 3 of names and a target of two classes."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(0)
    columns = {f"decimal{i}": rng.normal(size=rows).round(5) for i in range(12)}
    columns |= {f"integer{i}": rng.integers(0, 1000, rows) for i in range(4)}
    columns |= {f"name{i}": rng.choice(list("abcdefgh"), rows) for i in range(3)}
    pd.DataFrame(columns | {"y": rng.integers(0, 2, rows)}).to_csv(file, index=False)


def bench_csv(rows: int, repeats: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "table.csv"
        write_table(file, rows)
        held = subprocess.run(
            [sys.executable, "-c", FRAME, str(file)], capture_output=True, text=True, check=True
        )
        frame = int(held.stdout) / 2**20
        pairs = [(run(PANDAS, str(file)), run(OURS, str(file), "y")) for _ in range(repeats)]
    plain, ours = min(p[0] for p, _ in pairs), min(o[0] for _, o in pairs)
    peak = max(o[1] for _, o in pairs)
    print(f"CSV of {rows:,} rows x 20 columns, a frame of {frame:.0f} MiB")
    print(f"  pandas.read_csv {plain:6.1f} s   peak {max(p[1] for p, _ in pairs):6.0f} MiB")
    print(f"  nas.data.read   {ours:6.1f} s   peak {peak:6.0f} MiB")
    print(f"  ratio: {ours / plain:.2f} x the time, {peak / frame:.2f} x the frame")


def bench_sets(data: Path, before: Path, repeats: int) -> None:
    print(f"{'data set':12} {'before s':>9} {'now s':>9} {'ratio':>6}   (best of {repeats})")
    for name, (path, target) in SETS.items():
        if not (data / path).exists():
            print(f"{name:12} absent")
            continue
        times: dict[Path, list[float]] = {before: [], ROOT: []}
        for _ in range(repeats):
            for root in times:
                times[root].append(run(OURS_OLD, str(data / path), target or "", root=root)[0])
        old, new = min(times[before]), min(times[ROOT])
        print(f"{name:12} {old:9.2f} {new:9.2f} {new / old:6.2f}")


# A checkout of before has not all modules of today.
OURS_OLD = OURS.replace("import nas.data, nas.data.sources, nas.data.multimodal, nas.data.targets, "
                        "nas.data.warnings", "import nas.data, nas.data.multimodal")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--before", type=Path, help="a checkout to compare the data sets with")
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    if given.before:
        bench_sets(given.data, given.before, given.repeats)
    if given.rows:
        bench_csv(given.rows, given.repeats)


if __name__ == "__main__":
    main()
