"""Data sets that are larger than memory, to try the project on: made-up images and tables.

    python scripts/large_data.py images FOLDER [--samples 200000] [--side 224]
    python scripts/large_data.py table FILE.parquet [--samples 20000000] [--columns 20]

Images are JPEG files in class folders, about 15 kB each: stripes of ten directions under blots of
all colours. A table holds numbers, of which three decide between two classes. The same arguments
give the same data.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

CLASSES = 10


def images(folder: Path, samples: int, side: int) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side
    angles = np.pi * np.arange(CLASSES) / CLASSES
    waves = [
        np.sin(40 * (x * np.cos(a) + y * np.sin(a)) + phase)
        for a in angles
        for phase in np.linspace(0, 6, 8)
    ]
    stripes = [
        np.repeat((128 + 90 * wave).astype(np.uint8)[..., None], 3, axis=2) for wave in waves
    ]
    pictures = [Image.fromarray(each) for each in stripes]
    for label in range(CLASSES):
        (folder / f"class{label}").mkdir(parents=True, exist_ok=True)
    for i in range(samples):
        label = i % CLASSES
        blots = Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8))
        blots = blots.resize((side, side), Image.Resampling.BILINEAR)
        picture = pictures[8 * label + int(rng.integers(8))]
        Image.blend(picture, blots, 0.7).save(folder / f"class{label}" / f"{i}.jpg", quality=85)


def table(file: Path, samples: int, columns: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    names = [f"x{i}" for i in range(columns)]
    schema = pa.schema([*((name, pa.float32()) for name in names), ("label", pa.string())])
    with pq.ParquetWriter(file, schema) as writer:
        for start in range(0, samples, 1_000_000):
            n = min(1_000_000, samples - start)
            values = rng.normal(size=(n, columns)).astype(np.float32)
            score = values[:, 0] * values[:, 1] + np.abs(values[:, 2]) - 0.8
            label = np.where(score + 0.3 * rng.normal(size=n) > 0, "yes", "no")
            rows = dict(zip(names, values.T, strict=True)) | {"label": label}
            writer.write_table(pa.table(rows, schema=schema))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    kinds = parser.add_subparsers(dest="kind", required=True)
    one = kinds.add_parser("images")
    one.add_argument("folder", type=Path)
    one.add_argument("--samples", type=int, default=200_000)
    one.add_argument("--side", type=int, default=224)
    other = kinds.add_parser("table")
    other.add_argument("file", type=Path)
    other.add_argument("--samples", type=int, default=20_000_000)
    other.add_argument("--columns", type=int, default=20)
    given = parser.parse_args()
    if given.kind == "images":
        images(given.folder, given.samples, given.side)
    else:
        table(given.file, given.samples, given.columns)
