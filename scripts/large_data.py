"""Data sets that are larger than memory, to try the project on: made-up images, tables and graphs.

    python scripts/large_data.py images FOLDER [--samples 200000] [--side 224]
    python scripts/large_data.py table FILE.parquet [--samples 20000000] [--columns 20]
    python scripts/large_data.py graph FILE.npz [--samples 200000] [--edges 2000000]

Images are JPEG files in class folders, about 15 kB each: stripes of ten directions under blots of
all colours. A table holds numbers, of which three decide between two classes. A graph's
degrees are heavy-tailed, six of ten edges join nodes of a class, and a tenth of the nodes is for
training; features alone say little. The same arguments give the same data.
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


def graph(file: Path, samples: int, edges: int) -> None:
    rng, features = np.random.default_rng(0), 100
    label = rng.integers(0, CLASSES, samples)
    by_class = np.argsort(label, kind="stable")
    first = np.searchsorted(label[by_class], np.arange(CLASSES + 1))

    def popular(low: np.ndarray | int, high: np.ndarray | int) -> np.ndarray:
        """Places of which the first of each range come most often."""
        return (low + (high - low) * rng.random(edges) ** 2.5).astype(np.int64)

    source = rng.integers(0, samples, edges)
    own = by_class[popular(first[label[source]], first[label[source] + 1])]
    target = np.where(rng.random(edges) < 0.6, own, by_class[popular(0, samples)])
    x = rng.normal(size=(CLASSES, features))[label] * 0.1 + rng.normal(size=(samples, features))
    parts = np.split(rng.permutation(samples), [samples // 10, samples // 8, samples // 4])
    named = dict(zip(("train", "val", "test"), parts, strict=False))
    pairs = np.stack([source, target], axis=1).astype(np.int32)
    np.savez(file, edges=pairs, x=x.astype(np.float32), y=label, **named)


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
    third = kinds.add_parser("graph")
    third.add_argument("file", type=Path)
    third.add_argument("--samples", type=int, default=200_000)
    third.add_argument("--edges", type=int, default=2_000_000)
    given = parser.parse_args()
    if given.kind == "images":
        images(given.folder, given.samples, given.side)
    elif given.kind == "graph":
        graph(given.file, given.samples, given.edges)
    else:
        table(given.file, given.samples, given.columns)
