"""Files of point clouds: what their headers promise, what their channels are called, and points
that are no numbers or lie far from zero."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nas.data import Dataset, encode, read
from nas.data.cloud_files import is_text_cloud, read_cloud
from nas.data.ragged import Ragged
from nas.task import InputError

RNG = np.random.default_rng(0)
NAMES = ("x", "y", "z", "red", "green", "blue")


def points(n: int = 30, seed: int = 0) -> np.ndarray:
    """Coordinates, and whole colours of very different means."""
    rng = np.random.default_rng(seed)
    colours = np.array([200, 100, 20]) + rng.integers(-10, 10, (n, 3))
    return np.concatenate([rng.normal(size=(n, 3)), colours], axis=1).astype(np.float32)


def ply_ascii(path: Path, values: np.ndarray, names: tuple[str, ...] = NAMES) -> None:
    head = "".join(f"property float {name}\n" for name in names)
    rows = "\n".join(" ".join(f"{v:.12g}" for v in row) for row in values)
    path.write_text(f"{ASCII}element vertex {len(values)}\n{head}end_header\n{rows}\n")


def ply_binary(path: Path, values: np.ndarray, names: tuple[str, ...] = NAMES) -> None:
    head = "".join(f"property double {name}\n" for name in names)
    form = f"ply\nformat binary_big_endian 1.0\nelement vertex {len(values)}\n{head}end_header\n"
    path.write_bytes(form.encode() + values.astype(">f8").tobytes())


def pcd_ascii(path: Path, values: np.ndarray, names: tuple[str, ...] = NAMES) -> None:
    path.write_text(_pcd_header(len(values), names, "ascii") + _lines(values, " "))


def pcd_binary(path: Path, values: np.ndarray, names: tuple[str, ...] = NAMES) -> None:
    head = _pcd_header(len(values), names, "binary").encode()
    path.write_bytes(head + values.astype("<f4").tobytes())


def _pcd_header(count: int, names: tuple[str, ...], form: str) -> str:
    k = len(names)
    return (
        f"# .PCD v0.7\nVERSION 0.7\nFIELDS {' '.join(names)}\nSIZE{' 4' * k}\nTYPE{' F' * k}\n"
        f"COUNT{' 1' * k}\nWIDTH {count}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\n"
        f"POINTS {count}\nDATA {form}\n"
    )


def _lines(values: np.ndarray, comma: str) -> str:
    return "\n".join(comma.join(f"{v:.12g}" for v in row) for row in values) + "\n"


def coff(path: Path, values: np.ndarray, names: tuple[str, ...] = NAMES) -> None:
    path.write_text(f"COFF\n{len(values)} 0 0\n{_lines(values, ' ')}")


def xyz(path: Path, values: np.ndarray, names: tuple[str, ...] = NAMES) -> None:
    path.write_text(_lines(values, " "))


def txt(path: Path, values: np.ndarray, names: tuple[str, ...] = NAMES) -> None:
    path.write_text(f"//{','.join(names)}\n{len(values)}\n{_lines(values, ',')}")


FORMS: dict[str, Callable[..., None]] = {
    "ascii.ply": ply_ascii, "binary.ply": ply_binary, "ascii.pcd": pcd_ascii,
    "binary.pcd": pcd_binary, "coff.off": coff, "plain.xyz": xyz, "commas.txt": txt,
}  # fmt: skip
NAMED = [form for form in FORMS if form not in ("coff.off", "plain.xyz")]


def folder(root: Path, form: str, make: Callable[[int], np.ndarray] | None = None) -> Path:
    for label in "ab":
        (root / label).mkdir(parents=True)
        for i in range(8):
            seed = 100 * (label == "b") + i
            values = points(seed=seed) if make is None else make(seed)
            FORMS[form](root / label / f"{i}.{form.split('.')[1]}", values)
    return root


def ragged(data: Dataset) -> Ragged:
    found = data.inputs["points"]
    assert isinstance(found, Ragged)
    return found


def by_place(cloud: np.ndarray) -> np.ndarray:
    """The points in an order that does not depend on how they were drawn."""
    return cloud[np.lexsort(cloud.T[:3])]


@pytest.mark.parametrize("form", FORMS)
def test_each_form_holds_the_points_that_were_written(tmp_path: Path, form: str) -> None:
    data = read(folder(tmp_path / "clouds", form))
    assert data.modality == "pointclouds"
    np.testing.assert_allclose(by_place(ragged(data)[0]), by_place(points()), rtol=1e-6)
    again = encode(tmp_path / "clouds", data.profile, "pointclouds", data.targets)
    np.testing.assert_array_equal(again.inputs["points"].values, ragged(data).values)


@pytest.mark.parametrize("form", NAMED)
def test_channels_are_known_by_their_names(tmp_path: Path, form: str) -> None:
    """Half of the files name the same values in another order, and by other words."""
    write, ending = FORMS[form], form.split(".")[1]
    order = [5, 1, 3, 0, 4, 2]
    other = ("b", "y", "r", "x", "g", "z")
    for label in "ab":
        (tmp_path / label).mkdir()
        for i in range(8):
            values = points(seed=i)
            if i < 4:
                write(tmp_path / label / f"{i}.{ending}", values)
            else:
                write(tmp_path / label / f"{i}.{ending}", values[:, order], other)
    data = read(tmp_path)
    assert data.profile.channels == NAMES
    for row in range(16):
        np.testing.assert_allclose(ragged(data)[row][:, 3:].mean(0), [200, 100, 20], atol=8)
    new = encode(tmp_path / "a" / f"7.{ending}", data.profile, "pointclouds")
    np.testing.assert_array_equal(new.inputs["points"].values, ragged(data)[7])


def test_channels_that_only_some_files_have_are_left_out_with_a_note(tmp_path: Path) -> None:
    root = folder(tmp_path / "clouds", "ascii.ply")
    values = np.concatenate([points(seed=3), np.ones((30, 1))], axis=1)
    ply_ascii(root / "a" / "3.ply", values, (*NAMES, "confidence"))
    data = read(root)
    assert data.profile.channels == NAMES
    assert any("channels confidence" in note for note in data.notes)
    ply_ascii(tmp_path / "new.ply", points()[:, :3], NAMES[:3])
    with pytest.raises(InputError, match="no channel red, green, blue"):
        encode(tmp_path / "new.ply", data.profile, "pointclouds")


def test_the_packed_colour_of_pcl_becomes_three_channels(tmp_path: Path) -> None:
    values = points()
    packed = (values[:, 3].astype("u4") << 16) + (values[:, 4].astype("u4") << 8)
    packed += values[:, 5].astype("u4")
    rows = np.column_stack([values[:, :3].astype("<f4"), packed.astype("<u4").view("<f4")])
    pcd_binary(tmp_path / "a.pcd", rows, ("x", "y", "z", "rgb"))
    cloud = read_cloud(tmp_path / "a.pcd")
    assert cloud.channels == NAMES
    np.testing.assert_array_equal(cloud.points, values)


# Points that are no numbers --------------------------------------------------------------


@pytest.mark.parametrize("form", [*FORMS, "list", "array"])
@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
def test_points_without_a_number_are_left_out_with_a_note(
    tmp_path: Path, form: str, value: float
) -> None:
    def holed(seed: int) -> np.ndarray:
        values = points(seed=seed)
        values[[3, 7], :3] = value
        return values

    if form in FORMS:
        data = read(folder(tmp_path / "clouds", form, holed))
    else:
        x = [holed(seed) for seed in range(16)]
        y = np.arange(16) % 2
        data = read((x if form == "list" else np.stack(x), y), modality="pointclouds")
    assert set(ragged(data).lengths) == {28}
    assert np.isfinite(ragged(data).values).all()
    assert any("32 points with NaN or infinite values, in 16 of 16" in n for n in data.notes)


def test_faces_of_points_that_are_left_out_go_with_them(tmp_path: Path) -> None:
    corners = "0 0 0\n1 0 0\n0 1 0\nnan nan nan\n5 5 5\n"
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for label in "ab":
        for i in range(6):
            text = f"OFF\n5 2 0\n{corners}3 0 1 2\n3 2 3 4\n"
            (tmp_path / label / f"{i}.off").write_text(text)
    values = ragged(read(tmp_path)).values
    assert (values[:, 2] == 0).all()
    assert (values.max(0) <= 1).all()


# Far from zero ---------------------------------------------------------------------------

UTM = np.array([448_262.081, 5_411_932.677, 312.45])


@pytest.mark.parametrize("form", [*(f for f in FORMS if f != "binary.pcd"), "array"])
def test_clouds_in_map_coordinates_keep_their_shape(tmp_path: Path, form: str) -> None:
    def place(seed: int) -> np.ndarray:
        values = points(seed=seed).astype(np.float64)
        values[:, :3] += UTM
        values[:, 0] += seed  # metres apart
        return values

    if form == "array":
        data = read((np.stack([place(s) for s in range(16)]), np.arange(16) % 2),
                    modality="pointclouds")  # fmt: skip
    else:
        data = read(folder(tmp_path / "clouds", form, place))
    cloud = ragged(data)[1].astype(np.float64)
    expected = points(seed=1).astype(np.float64)
    assert cloud[:, 0].std() == pytest.approx(expected[:, 0].std(), rel=1e-4)
    gaps = np.sort(cloud[:, 1]) - np.sort(expected[:, 1])
    np.testing.assert_allclose(gaps, gaps.mean(), atol=1e-4)
    shift = np.array(data.profile.channel_shift)
    assert (np.abs(shift[:2] - UTM[:2]) < 200).all()
    assert np.abs(data.profile.channel_mean).max() < 1e3
    source = tmp_path / "clouds" if form != "array" else [place(s) for s in range(16)]
    again = encode(source, data.profile, "pointclouds", data.targets).inputs["points"]
    np.testing.assert_array_equal(again.values, ragged(data).values)


def test_clouds_that_lie_far_from_each_other_are_reported() -> None:
    places = np.array([[1e7 * (i % 4), 5e6, 0] for i in range(16)])
    x = [RNG.normal(size=(40, 3)) + place for place in places]
    notes = read((x, np.arange(16) % 2), modality="pointclouds").notes
    assert any("lie so far from the others" in note for note in notes)


def test_clouds_near_zero_are_not_shifted() -> None:
    x = [RNG.normal(size=(40, 3)) + 50 for i in range(16)]
    data = read((x, np.arange(16) % 2), modality="pointclouds")
    assert data.profile.channel_shift == ()
    np.testing.assert_array_equal(by_place(ragged(data)[0]), by_place(x[0].astype(np.float32)))


# Headers and text ------------------------------------------------------------------------

ASCII = "ply\nformat ascii 1.0\n"
LITTLE = "ply\nformat binary_little_endian 1.0\n"
XYZ = "property float x\nproperty float y\nproperty float z\n"
HUGE = 10**12


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.ply",
            f"{ASCII}element vertex {HUGE}\n{XYZ}end_header\n0 0 0\n",
            "ends",
        ),
        (
            "a.ply",
            f"{ASCII}element junk {HUGE}\nelement vertex 1\n{XYZ}end_header\n",
            "ends before",
        ),
        (
            "a.ply",
            f"{LITTLE}element vertex {HUGE}\n{XYZ}end_header\n000",
            "ends before",
        ),
        (
            "a.ply",
            f"{LITTLE}element face 9\nproperty list char int i\nend_header\n" + "\x7f" * 40,
            "ends before",
        ),
        (
            "a.ply",
            f"{ASCII}element face 1\nproperty list int int i\nend_header\n-5 1",
            "ends before",
        ),
        (
            "a.ply",
            f"{ASCII}element vertex -3\n{XYZ}end_header\n",
            "'element vertex",
        ),
        ("a.ply", f"{ASCII}property float x\nend_header\n", "before any element"),
        ("a.ply", "ply\nelement vertex 1\nproperty quad x\nend_header\n1\n", "property quad x"),
        ("a.ply", "ply\nelement\nend_header\n", "'element'"),
        ("a.off", f"OFF\n{HUGE} 0 0\n0 0 0\n", "ends before"),
        ("a.off", "OFF\n-1 0 0\n0 0 0\n", "ends before"),
        ("a.off", "OFF BINARY\nxyz", "binary OFF"),
        ("a.pcd", _pcd_header(HUGE, NAMES[:3], "binary"), "ends before"),
        (
            "a.pcd",
            _pcd_header(9, NAMES[:3], "binary_compressed"),
            "save it as binary",
        ),
        ("a.pcd", "VERSION 0.7\n", "no line DATA"),
        ("a.pcd", "FIELDS x y\nSIZE 4\nTYPE F F\nPOINTS 1\nDATA ascii\n1 2\n", "FIELDS, SIZE"),
        ("a.pcd", "FIELDS x\nSIZE 3\nTYPE F\nPOINTS 1\nDATA ascii\n1\n", "'f3'"),
        ("a.pcd", "FIELDS x y w\nSIZE 4 4 4\nTYPE F F F\nPOINTS 1\nDATA ascii\n1 2 3\n", "no x, y"),
        ("a.xyz", "12\ncaffeine\nC 0 0 0\n", "not of numbers"),
        ("a.xyz", "0 0 0\n1 2\n", "differ in how many"),
        ("a.xyz", "# nothing\n", "no points"),
        ("a.xyz", "x y z w\n1 2 3\n", "names 4 channels"),
    ],
)
def test_a_header_that_lies_is_named_in_one_line(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    root = folder(tmp_path / "clouds", f"ascii.{name[2:]}" if name[2:] in ("ply", "pcd") else
                  {"off": "coff.off", "xyz": "plain.xyz"}[name[2:]])  # fmt: skip
    (root / "a" / name).write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match="1 of 17 clouds cannot be read") as caught:
        read(root, modality="pointclouds")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_of_signed_counts_does_not_go_backwards(tmp_path: Path) -> None:
    head = f"{LITTLE}element face 3\nproperty list char int i\nelement vertex 1\n{XYZ}end_header\n"
    body = struct.pack("<b", -1) + bytes(40)
    (tmp_path / "a.ply").write_bytes(head.encode() + body)
    with pytest.raises(ValueError, match="ends before"):
        read_cloud(tmp_path / "a.ply")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("1 2 3\n4 5 6\n", True),
        ("1.5,2,3,0.1,0.2,0.3\n1,2,3,4,5,6\n", True),
        ("x;y;z\n1;2;3\n2;2;3\n", True),
        ("1, 2\n2, 3\n", False),  # the edges of a TUDataset
        ("A fine film.\nA poor one.\n", False),
        ("", False),
    ],
)
def test_only_lines_of_three_numbers_are_a_cloud(
    tmp_path: Path, content: str, expected: bool
) -> None:
    (tmp_path / "a.txt").write_text(content)
    assert is_text_cloud(tmp_path / "a.txt") is expected
