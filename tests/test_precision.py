"""Numbers far from zero, and pixels of more than 8 bits: what is kept of them."""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile
from PIL import Image

from nas.data import Dataset, encode, read
from nas.data.precision import column_shift
from nas.task import InputError

N = 600
STEP = np.arange(N)
Y = STEP // 30 % 2

FAR = {
    "epoch seconds": 1_717_200_000 + STEP,
    "epoch milliseconds": 1_717_200_000_000 + 100 * STEP,
    "nanoseconds as text": [str(1_717_200_000_000_000_000 + 1_000_000 * i) for i in STEP],
    "pressure in Pa": np.round(101_325 + STEP * 1e-3, 3),
    "northing in m": 5_000_000 + STEP * 0.01,
    "below zero": -(1e9 + STEP),
    "one outlier": np.where(STEP == 7, 0, 1_717_200_000 + STEP),
    "missing values": np.where(STEP % 50 == 7, np.nan, 1e9 + STEP),
    "nullable integers": pd.array(1_717_200_000 + STEP, dtype="Int64"),
    "moments": pd.Timestamp("2024-06-01") + pd.to_timedelta(STEP, unit="s"),
    "moments as text": (pd.Timestamp("2024-06-01") + pd.to_timedelta(STEP, unit="s")).astype(str),
}


@pytest.mark.parametrize("name", FAR)
def test_values_far_from_zero_stay_apart_in_training_and_in_prediction(name: str) -> None:
    frame = pd.DataFrame({"x": FAR[name], "y": Y})
    data = read(frame, target="y")
    values = data.inputs["numeric"][:, 0]
    known = ~np.isnan(values)
    assert len(np.unique(values[known])) == frame["x"].nunique()
    column = data.profile.columns[0]
    train = values[data.parts["train"]]
    assert column.mean == pytest.approx(np.nanmean(train, dtype=np.float64))
    again = encode(frame, data.profile, data.modality).inputs["numeric"]
    np.testing.assert_array_equal(again, data.inputs["numeric"])


def test_columns_of_an_array_are_shifted_each_for_itself() -> None:
    x = np.stack([1e9 + STEP, STEP / 7, 1e15 + STEP], axis=1)
    data = read((x, Y))
    values = data.inputs["numeric"]
    assert [len(np.unique(column)) for column in values.T] == [N, N, N]
    np.testing.assert_array_equal(values[:, 1], (STEP / 7).astype(np.float32))


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(np.random.default_rng(0).normal(5, 1, 100_000), id="measured"),
        pytest.param(np.round(np.random.default_rng(0).uniform(-124, -114, 20_000), 2), id="deg"),
        pytest.param(1e6 + np.arange(1_000.0), id="whole numbers that float32 holds"),
        pytest.param(np.random.default_rng(0).lognormal(0, 4, 5_000), id="long tail"),
    ],
)
def test_values_that_float32_holds_are_left_as_they_are(values: np.ndarray) -> None:
    assert column_shift(values) == 0


def test_what_no_shift_can_keep_apart_is_reported() -> None:
    two = np.where(STEP % 3 == 0, 1e12 + STEP, STEP * 0.5)
    notes = read(pd.DataFrame({"x": two, "y": Y}), target="y").notes
    assert any("'x'" in note and "float32 merges" in note for note in notes)


# Images ----------------------------------------------------------------------------------

SIDE = 16


Make = Callable[[np.random.Generator, int], np.ndarray]


def deep_images(
    root: Path, make: Callable[[np.random.Generator, int], np.ndarray], end: str
) -> Path:
    """Two classes of twenty images whose values ``make`` draws for a class."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(("low", "high")):
        (root / name).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(make(rng, k)).save(root / name / f"{i}.{end}")
    return root


def ints(low: int, high: int, kind: type = np.uint16) -> Make:
    def make(rng: np.random.Generator, k: int) -> np.ndarray:
        return rng.integers(low + k, high + k, (SIDE, SIDE)).astype(kind)

    return make


def floats(low: float, high: float) -> Make:
    def make(rng: np.random.Generator, k: int) -> np.ndarray:
        return rng.uniform(low, high, (SIDE, SIDE)).astype(np.float32)

    return make


DEEP = {
    "12 bits in a 16-bit PNG": (ints(0, 4095), "png"),
    "a narrow band of 12 bits": (ints(1000, 1130), "png"),
    "16 bits": (ints(0, 65_534), "png"),
    "12 bits in a 16-bit TIFF": (ints(0, 4095), "tif"),
    "32-bit whole numbers": (ints(100_000, 200_000, np.int32), "tif"),
    "Hounsfield units": (ints(-1024, 3071, np.int32), "tif"),
    "floats of 0..255": (floats(0, 255), "tif"),
    "floats of 0..1": (floats(0, 1), "tif"),
    "reflectances below 0.05": (floats(0, 0.05), "tif"),
    "kelvins": (floats(270, 310), "tif"),
    "standardised floats": (floats(-2.1, 2.6), "tif"),
}


@pytest.mark.parametrize("form", ["files", "array"])
@pytest.mark.parametrize("name", DEEP)
def test_images_of_more_than_8_bits_keep_their_contrast(
    tmp_path: Path, name: str, form: str
) -> None:
    make, end = DEEP[name]
    if form == "files":
        source = deep_images(tmp_path / "images", make, end)
        data = read(source)
        again = encode(source, data.profile, "images")
        order = np.argsort([name for name, _ in read_names(source)])
        expected = data.inputs["image"][order]
    else:
        rng = np.random.default_rng(0)
        x = np.stack([make(rng, i % 2) for i in range(40)])
        data = read((x, np.arange(40) % 2))
        again = encode(x, data.profile, "images")
        expected = data.inputs["image"]
    pixels = data.inputs["image"]
    assert len(np.unique(pixels)) >= 100
    assert np.mean((pixels == 0) | (pixels == 255)) < 0.05  # what is clipped
    np.testing.assert_array_equal(again.inputs["image"], expected)


def read_names(root: Path) -> list[tuple[str, int]]:
    from nas.data import images

    return list(images.load(root, None, {}).files)


def test_the_range_is_that_of_the_training_part() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(1000, 2000, (60, SIDE, SIDE)).astype(np.uint16)
    parts = pd.Series(["train"] * 40 + ["test"] * 20)
    y = pd.DataFrame({"label": np.arange(60) % 2})
    data = read((x, y), split="0.7,0.15,0.15")
    rows = data.parts["train"]
    assert data.profile.pixel_range == (x[rows].min(), x[rows].max())
    assert len(parts) == len(x)


def test_a_few_hot_pixels_are_reported(tmp_path: Path) -> None:
    def make(rng: np.random.Generator, k: int) -> np.ndarray:
        values = rng.integers(0, 1000, (64, 64)).astype(np.uint16)
        values[0, 0] = 65_535
        return values

    notes = read(deep_images(tmp_path, make, "png")).notes
    assert any("99.8 % of the pixels share" in note and "65535" in note for note in notes)


def test_deep_images_among_8_bit_ones_share_their_scale(tmp_path: Path) -> None:
    root = deep_images(tmp_path, lambda rng, k: rng.integers(0, 256, (8, 8), dtype=np.uint8), "png")
    for i in range(10):
        Image.fromarray(np.full((8, 8), 65_535 // 2, np.uint16)).save(root / "low" / f"{i}.png")
    data = read(root)
    assert data.profile.pixel_range == (0, 65_535)
    assert (data.inputs["image"] == 127).all(axis=(1, 2, 3)).sum() == 10


def test_a_deep_image_is_no_input_for_networks_of_8_bit_images(tmp_path: Path) -> None:
    root = deep_images(
        tmp_path / "a", lambda rng, k: rng.integers(0, 256, (8, 8), dtype=np.uint8), "png"
    )
    profile = read(root).profile
    new = deep_images(tmp_path / "b", ints(0, 4095), "png")
    with pytest.raises(InputError, match="more than 8 bits, but the training images have 8"):
        encode(new, profile, "images")
    with pytest.raises(InputError, match=r"but those of the training data are 0\.\.255"):
        encode(np.full((3, 8, 8), 4000), profile, "images")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_with_values_that_are_no_numbers_is_named(tmp_path: Path, value: float) -> None:
    root = deep_images(tmp_path, floats(0, 1), "tif")
    Image.fromarray(np.full((SIDE, SIDE), value, np.float32)).save(root / "low" / "3.tif")
    with pytest.raises(InputError, match=r"1 of 40 images .*3\.tif \(NaN or infinite values\)"):
        read(root)


def colour_png(path: Path, values: np.ndarray) -> None:
    """A PNG of 16 bits a colour, which Pillow does not write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, _ = values.shape

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))


def sixteen_bit_colours(root: Path, top: int) -> Path:
    rng = np.random.default_rng(0)
    for name in "ab":
        for i in range(8):
            colour_png(root / name / f"{i}.png", rng.integers(0, top, (9, 9, 3)))
    return root


def test_16_bit_colours_are_noted_and_12_bit_ones_refused(tmp_path: Path) -> None:
    data: Dataset = read(sixteen_bit_colours(tmp_path / "full", 65_536))
    assert any("16 of 16 images have 16-bit colours" in note for note in data.notes)
    with pytest.raises(InputError, match="convert them to 8 bits"):
        read(sixteen_bit_colours(tmp_path / "twelve", 4096))


@pytest.mark.parametrize("end", ["gif", "tif"])
def test_further_frames_are_noted(tmp_path: Path, end: str) -> None:
    root = deep_images(tmp_path, lambda rng, k: rng.integers(0, 256, (8, 8), dtype=np.uint8), end)
    frames = [Image.new("L", (8, 8), value) for value in (10, 200)]
    frames[0].save(root / "low" / f"0.{end}", save_all=True, append_images=frames[1:])
    assert any("1 of 40 images have several frames" in note for note in read(root).notes)


# Graphs ----------------------------------------------------------------------------------

FAR_FEATURES = {"seconds": 1_717_200_000.0, "northing": 5_411_932.25, "near": 0.0}


def graph_arrays(offset: float) -> dict[str, np.ndarray]:
    """Forty rings of nodes whose features and edges' features lie near ``offset``."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(5, 9, 40)
    edges = [np.stack([np.arange(n), (np.arange(n) + 1) % n], axis=1) for n in sizes]
    ptr = np.concatenate([[0], np.cumsum(sizes)])
    total = int(sizes.sum())
    features = offset + rng.integers(0, 10_000, (total, 1)) / 64
    return {
        "edges": np.concatenate(edges), "node_ptr": ptr, "edge_ptr": ptr, "y": np.arange(40) % 2,
        "node_feat": np.concatenate([features, rng.normal(size=(total, 1))], axis=1),
        "edge_feat": offset + rng.integers(0, 10_000, (total, 1)) / 64,
    }  # fmt: skip


def graph_source(form: str, path: Path, arrays: dict[str, np.ndarray]) -> object:
    if form == "archive":
        np.savez(path / "graphs.npz", **arrays)
        return path / "graphs.npz"
    ptr = arrays["node_ptr"]
    cuts = [slice(a, b) for a, b in itertools.pairwise(ptr)]
    if form == "objects":
        return [
            SimpleNamespace(edge_index=arrays["edges"][c].T, x=arrays["node_feat"][c],
                            edge_attr=arrays["edge_feat"][c], y=arrays["y"][[i]])
            for i, c in enumerate(cuts)
        ]  # fmt: skip
    graph = np.repeat(np.arange(40), np.diff(ptr))
    nodes = {"id": np.arange(ptr[-1]), "graph": graph, "y": arrays["y"][graph]}
    nodes |= {f"f{i}": arrays["node_feat"][:, i] for i in range(2)}
    pd.DataFrame(nodes).to_csv(path / "nodes.csv", index=False)
    ends = arrays["edges"] + np.repeat(ptr[:-1], np.diff(ptr))[:, None]
    edges = {"source": ends[:, 0], "target": ends[:, 1], "w": arrays["edge_feat"][:, 0]}
    pd.DataFrame(edges).to_csv(path / "edges.csv", index=False)
    return path


@pytest.mark.parametrize("form", ["archive", "objects", "tables"])
@pytest.mark.parametrize("name", FAR_FEATURES)
def test_features_of_graphs_far_from_zero_stay_apart(tmp_path: Path, form: str, name: str) -> None:
    arrays = graph_arrays(FAR_FEATURES[name])
    source = graph_source(form, tmp_path, arrays)
    data = read(source)
    nodes, edges = data.inputs["nodes"], data.inputs["edge_features"]
    expected = arrays["node_feat"]
    np.testing.assert_allclose(np.ptp(nodes.values[:, 0]), np.ptp(expected[:, 0]), rtol=1e-6)
    assert len(np.unique(nodes.values[:, 0])) == len(np.unique(expected[:, 0]))
    assert len(np.unique(edges.values[:, 0])) == len(np.unique(arrays["edge_feat"]))
    assert bool(data.profile.channel_shift) == (name != "near")
    again = encode(source, data.profile, "graphs", data.targets).inputs
    np.testing.assert_array_equal(again["nodes"].values, nodes.values)
    np.testing.assert_array_equal(again["edge_features"].values, edges.values)


# Sounds ----------------------------------------------------------------------------------


def sounds(root: Path, scale: float, subtype: str) -> Path:
    rng = np.random.default_rng(0)
    for name in "ab":
        (root / name).mkdir(parents=True)
        for i in range(8):
            wave = scale * np.sin(np.arange(2000) / rng.uniform(2, 9))
            soundfile.write(root / name / f"{i}.wav", wave, 8000, subtype=subtype)
    return root


def test_floats_on_another_scale_than_a_waves_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"16 of 16 sounds .*reaches 20000, but sounds of floats"):
        read(sounds(tmp_path, 20_000, "FLOAT"))


@pytest.mark.parametrize("subtype", ["FLOAT", "PCM_24"])
def test_sounds_that_fade_in_16_bits_are_reported(tmp_path: Path, subtype: str) -> None:
    notes = read(sounds(tmp_path / "faint", 2e-4, subtype)).notes
    assert any("16 of 16 sounds of more than 16 bits stay below 32" in note for note in notes)
    loud = read(sounds(tmp_path / "loud", 0.5, subtype)).notes
    assert not any("more than 16 bits" in note for note in loud)


def test_a_faint_array_is_reported() -> None:
    waves = [2e-4 * np.sin(np.arange(2000 + i) / (2 + i)).astype(np.float32) for i in range(16)]
    notes = read((waves, np.arange(16) % 2)).notes
    assert any("16 of 16 sounds" in note and "louder" in note for note in notes)
