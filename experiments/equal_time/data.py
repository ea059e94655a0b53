"""The data sets of the comparison: as folders that `nas search` reads, and as arrays.

Every set keeps its official test part. `fsdd` holds one speaker out (lucas), `proteins` fold 0;
`mnist` and `mnist_points` train on 10,000 samples. Nothing here imports nas.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SPEAKER, FOLD = "lucas", 0


@dataclass(frozen=True)
class Parts:
    """What a script trains on and is tested on: inputs (n, …) or a list, and labels (n,)."""

    x: Any
    y: np.ndarray
    test_x: Any
    test_y: np.ndarray


@dataclass(frozen=True)
class Problem:
    """One data set: the modality, the metric it is judged by, and its options for `nas search`."""

    name: str
    modality: str
    path: str
    metric: str = "accuracy"
    options: tuple[str, ...] = ()

    @property
    def higher_is_better(self) -> bool:
        return self.metric != "rmse"

    def folder(self, data: Path, work: Path) -> Path:
        """What `nas search` reads, made in ``work`` where the original holds other parts."""
        source = data / self.path
        target = work / self.name
        if self.name not in ("mnist", "fsdd", "proteins"):
            return source
        if not target.exists():
            making = target.with_suffix(".making")
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir(parents=True)
            getattr(self, f"_write_{self.name}")(source, making)
            making.rename(target)
        return target

    def _write_mnist(self, source: Path, folder: Path) -> None:
        archive = np.load(source)
        np.savez_compressed(
            folder / "mnist.npz",
            x_train=archive["x_train"][:10_000],
            y_train=archive["y_train"][:10_000],
            x_test=archive["x_test"],
            y_test=archive["y_test"],
        )

    def _write_fsdd(self, source: Path, folder: Path) -> None:
        table = _fsdd(source)
        shutil.copytree(source / "wav", folder / "wav")
        table["file_name"] = "wav/" + table["file"]
        table[["file_name", "label", "speaker", "split"]].to_csv(
            folder / "metadata.csv", index=False
        )

    def _write_proteins(self, source: Path, folder: Path) -> None:
        archive = dict(np.load(source / "proteins.npz"))
        fold = archive.pop("fold")
        archive["split"] = np.where(fold == FOLD, "test", "train")
        np.savez_compressed(folder / "proteins.npz", **archive)

    def parts(self, data: Path) -> Parts:
        """The same parts as arrays, for a script that does not know nas."""
        return _PARTS[self.name](data / self.path)


def _fsdd(source: Path) -> pd.DataFrame:
    table = pd.read_csv(source / "meta.csv")
    return table.assign(split=np.where(table["speaker"] == SPEAKER, "test", "train"))


def _table(source: Path, target: str) -> Parts:
    train, test = (pd.read_csv(source / f"{part}.csv.gz") for part in ("train", "test"))
    return Parts(
        train.drop(columns=target),
        train[target].to_numpy(),
        test.drop(columns=target),
        test[target].to_numpy(),
    )


def _texts(source: Path) -> Parts:
    train, test = (
        pd.read_csv(source / f"{part}.csv.gz", keep_default_na=False) for part in ("train", "test")
    )
    return Parts(
        train["text"].tolist(),
        train["label"].to_numpy(),
        test["text"].tolist(),
        test["label"].to_numpy(),
    )


def _mnist(source: Path) -> Parts:
    archive = np.load(source)
    x, test_x = (archive[f"x_{part}"][:, None] / np.float32(255) for part in ("train", "test"))
    return Parts(x[:10_000], archive["y_train"][:10_000], test_x, archive["y_test"])


def _signs(source: Path) -> Parts:
    from PIL import Image

    def read(part: str) -> tuple[np.ndarray, np.ndarray]:
        files = sorted((source / part).glob("*/*"))
        pixels = [np.asarray(Image.open(f).convert("RGB").resize((64, 64))) for f in files]
        x = np.stack(pixels).transpose(0, 3, 1, 2) / np.float32(255)
        return x, np.array([f.parent.name for f in files])

    return Parts(*read("train"), *read("test"))


def _sounds(source: Path) -> Parts:
    import soundfile

    table = _fsdd(source)
    waves = [soundfile.read(source / "wav" / f, dtype="float32")[0] for f in table["file"]]
    label, test = table["label"].to_numpy(), (table["split"] == "test").to_numpy()
    return Parts(
        [w for w, t in zip(waves, test, strict=True) if not t],
        label[~test],
        [w for w, t in zip(waves, test, strict=True) if t],
        label[test],
    )


def _proteins(source: Path) -> Parts:
    z = np.load(source / "proteins.npz")
    graphs = []
    for i in range(len(z["y"])):
        nodes = slice(z["node_ptr"][i], z["node_ptr"][i + 1])
        edges = slice(z["edge_ptr"][i], z["edge_ptr"][i + 1])
        graphs.append((z["node_tag"][nodes], z["edges"][edges]))
    test = z["fold"] == FOLD
    return Parts(
        [g for g, t in zip(graphs, test, strict=True) if not t],
        z["y"][~test],
        [g for g, t in zip(graphs, test, strict=True) if t],
        z["y"][test],
    )


def _points(source: Path) -> Parts:
    z = np.load(source / "mnist_points.npz")

    def scaled(x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float32)
        x[..., :2] = x[..., :2] / 13.5 - 1
        x[..., 2] /= 255
        return x

    return Parts(scaled(z["x_train"]), z["y_train"], scaled(z["x_test"]), z["y_test"])


_PARTS = {
    "adult": lambda source: _table(source, "income"),
    "california_housing": lambda source: _table(source, "median_house_value"),
    "sign_digits": _signs,
    "mnist": _mnist,
    "trec": _texts,
    "fsdd": _sounds,
    "proteins": _proteins,
    "mnist_points": _points,
}

PROBLEMS = {
    p.name: p
    for p in (
        Problem("adult", "tabular", "tabular/adult", options=("--target", "income")),
        Problem(
            "california_housing",
            "tabular",
            "tabular/california_housing",
            "rmse",
            ("--target", "median_house_value"),
        ),
        Problem("sign_digits", "images", "images/sign_digits"),
        Problem("mnist", "images", "images/mnist/mnist.npz"),
        Problem("trec", "text", "text/trec", options=("--target", "label")),
        Problem(
            "fsdd",
            "audio",
            "audio/fsdd",
            options=("--target", "label"),
        ),
        Problem("proteins", "graphs", "graphs/proteins"),
        Problem(
            "mnist_points",
            "pointclouds",
            "pointcloud/mnist_points",
            options=("--modality", "pointclouds"),
        ),
    )
}
