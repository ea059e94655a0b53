"""Point clouds: what becomes of their files, and networks that see points, not their order."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from nas.data import encode, read
from nas.data.pointclouds import recognise
from nas.data.ragged import Ragged
from nas.data.samples import Arrays
from nas.family import load_families
from nas.models.blocks import MaskedBatchNorm
from nas.models.dgcnn import DGCNN, DGCNN_MODELNET, EdgeConv, nearest
from nas.models.inputs import PointInput
from nas.models.pointnet import POINTNET, CloudConfig, PointNet
from nas.models.sparse_conv import DownConv, SparseCNN, Stage, SubmanifoldConv, Voxels
from nas.rules import CLOUD_MOST
from nas.space import Choice, Space
from nas.task import DataProfile, InputError, Target, Task, UsageError
from nas.training.augment import augment_points
from nas.training.baselines import baselines

RNG = np.random.default_rng(0)


def ball(n: int, scale: Sequence[float] = (1, 1, 1), seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, len(scale))) * scale).astype(np.float32)


def off(
    path: Path, points: np.ndarray, faces: Sequence[Sequence[int]] = (), head: str = "\n"
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"OFF{head}{len(points)} {len(faces)} 0"]
    lines += [" ".join(f"{v:.9g}" for v in point) for point in points]
    lines += [" ".join(map(str, (len(face), *face))) for face in faces]
    path.write_text("\n".join(lines) + "\n")


def ply(path: Path, points: np.ndarray, kind: str, faces: Sequence[Sequence[int]] = ()) -> None:
    """x, y, z as floats and "red" as a byte; ``kind`` is ascii or a binary format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = f"ply\nformat {kind} 1.0\ncomment made here\nelement vertex {len(points)}\n"
    header += "".join(f"property float {axis}\n" for axis in "xyz") + "property uchar red\n"
    if faces:
        header += f"element face {len(faces)}\nproperty list uchar int vertex_indices\n"
    header += "end_header\n"
    if kind == "ascii":
        rows = [f"{x:.9g} {y:.9g} {z:.9g} {int(red)}" for x, y, z, red in points]
        rows += [" ".join(map(str, (len(face), *face))) for face in faces]
        path.write_text(header + "\n".join(rows) + "\n")
        return
    order = "<" if "little" in kind else ">"
    body = b"".join(struct.pack(f"{order}fffB", *p[:3], int(p[3])) for p in points.tolist())
    body += b"".join(struct.pack(f"{order}B{len(f)}i", len(f), *f) for f in faces)
    path.write_bytes(header.encode() + body)


def folders(root: Path, n: int = 6, size: int = 20) -> Path:
    """Two classes of .off files: balls and rods, of different sizes."""
    for k, label in enumerate(("ball", "rod")):
        for i in range(n):
            off(root / label / f"{i}.off", ball(size + i, (1, 1, 1 + 4 * k), seed=10 * k + i))
    return root


def read_clouds(x: Sequence[np.ndarray], **kwargs: Any) -> Any:
    """Clouds with labels of two classes in turn."""
    return read((list(x), np.arange(len(x)) % 2), modality="pointclouds", **kwargs)


def clouds(dataset: Any) -> Ragged:
    found = dataset.inputs["points"]
    assert isinstance(found, Ragged)
    return found


def in_order(points: np.ndarray) -> np.ndarray:
    """The points sorted, as a cloud has no order."""
    ordered: np.ndarray = points[np.lexsort(points.T[::-1])]
    return ordered


# Reading ---------------------------------------------------------------------------------


def test_class_folders_of_off_files_become_clouds_of_their_own_sizes(tmp_path: Path) -> None:
    dataset = read(folders(tmp_path / "shapes"))
    assert dataset.modality == "pointclouds"
    assert dataset.targets[0].classes == ("ball", "rod")
    found = clouds(dataset)
    assert found.layout == "padded"
    assert found.values.dtype == np.float32
    assert found.lengths.tolist() == [20, 21, 22, 23, 24, 25] * 2
    np.testing.assert_allclose(in_order(found[0]), in_order(ball(20)), rtol=1e-6)
    assert dataset.profile.inputs == {"points": (25, 3)}


@pytest.mark.parametrize("head", ["\n", " ", ""])
def test_the_counts_of_an_off_file_may_stand_beside_the_word(tmp_path: Path, head: str) -> None:
    off(tmp_path / "one.off", ball(12), head=head)
    file = tmp_path / "one.off"
    assert file.read_text().startswith(f"OFF{head}12 0 0\n")
    profile = read(folders(tmp_path / "shapes")).profile
    found = clouds(encode(file, profile, "pointclouds"))
    np.testing.assert_allclose(in_order(found[0]), in_order(ball(12)), rtol=1e-6)


def test_points_are_drawn_from_faces_in_proportion_to_their_area(tmp_path: Path) -> None:
    """A square of side 3 at z = 0 and one of side 1 at z = 1: nine points to one."""
    corners = np.array([[0, 0, 0], [3, 0, 0], [3, 3, 0], [0, 3, 0]], np.float32)
    small = corners / 3 + [0, 0, 1]
    points = np.concatenate([corners, small]).astype(np.float32)
    off(tmp_path / "mesh" / "a.off", points, [(0, 1, 2, 3), (4, 5, 6, 7)])
    profile = read(folders(tmp_path / "shapes")).profile
    cloud = clouds(encode(tmp_path / "mesh", profile, "pointclouds"))[0]
    assert len(cloud) == CLOUD_MOST
    assert np.isclose((cloud[:, 2] == 0).mean(), 0.9, atol=0.02)
    low = cloud[cloud[:, 2] == 0]
    np.testing.assert_allclose(low.mean(0), [1.5, 1.5, 0], atol=0.1)  # uniform on the square
    np.testing.assert_allclose(low.std(0)[:2], 3 / np.sqrt(12), rtol=0.05)
    assert set(np.unique(cloud[:, 2])) == {0, 1}


@pytest.mark.parametrize("faces", [(), ((0, 1, 2), (0, 2, 3, 4))], ids=["points", "mesh"])
def test_ascii_and_binary_ply_of_both_byte_orders_hold_the_same_cloud(
    tmp_path: Path, faces: Sequence[Sequence[int]]
) -> None:
    points = np.concatenate([ball(30), RNG.integers(0, 256, (30, 1))], axis=1).astype(np.float32)
    found = []
    for kind in ("ascii", "binary_little_endian", "binary_big_endian"):
        for label in "ab":
            for i in range(5):
                ply(tmp_path / kind / label / f"{i}.ply", points, kind, faces)
        dataset = read(tmp_path / kind)
        found.append(clouds(dataset)[0])
        assert dataset.profile.inputs["points"][1] == 4  # red is a fourth channel
    for each in found[1:]:
        np.testing.assert_allclose(found[0], each, rtol=1e-6)
    if not faces:
        np.testing.assert_allclose(in_order(found[0]), in_order(points), rtol=1e-6)


def test_modelnet_keeps_its_parts_inside_the_class_folders(tmp_path: Path) -> None:
    for label in ("bed", "desk"):
        for part, n in (("train", 8), ("test", 3)):
            for i in range(n):
                off(tmp_path / label / part / f"{label}_{i}.off", ball(10, seed=i))
    dataset = read(tmp_path)
    assert dataset.targets[0].classes == ("bed", "desk")
    assert len(dataset.parts["test"]) == 6
    assert len(dataset.parts["train"]) + len(dataset.parts["val"]) == 16


def test_part_folders_and_a_table_of_files_keep_their_parts(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        folders(tmp_path / "parts" / part, n=4)
    dataset = read(tmp_path / "parts")
    assert [len(dataset.parts[p]) for p in ("train", "val", "test")] == [8, 8, 8]
    table = []
    for i in range(20):
        file = tmp_path / "listed" / f"{i}.npy"
        file.parent.mkdir(exist_ok=True)
        np.save(file, ball(9, seed=i))
        part = "test" if i < 4 else "val" if i < 8 else "train"
        table.append({"file_name": file.name, "label": i % 2, "split": part})
    pd.DataFrame(table).to_csv(tmp_path / "listed" / "metadata.csv", index=False)
    dataset = read(tmp_path / "listed", target="label")
    assert dataset.parts["test"].tolist() == [0, 1, 2, 3]


def test_lists_of_clouds_are_recognised_and_three_axes_are_left_to_the_user() -> None:
    sizes = [ball(5 + i) for i in range(12)]
    labels = np.arange(12) % 2
    assert recognise(Arrays(sizes, labels))
    assert read((sizes, labels)).modality == "pointclouds"
    stacked = np.stack([ball(16, seed=i) for i in range(12)])
    for source in (stacked, list(stacked)):
        with pytest.raises(UsageError, match="images or series or pointclouds") as raised:
            read((source, labels))
        assert "arrays of points with 3 channels" in str(raised.value)
    dataset = read((stacked, labels), modality="pointclouds")
    assert clouds(dataset).lengths.tolist() == [16] * 12
    assert recognise(Arrays(np.zeros((12, 28, 28)), labels)) == ""
    assert recognise(Arrays(np.zeros((12, 8, 8)), labels)) == ""
    waves = Arrays([np.zeros(400) for _ in range(3)], labels[:3])
    assert recognise(waves) == ""


def test_folders_of_npy_files_that_are_no_clouds_are_not_claimed(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / "a").mkdir(exist_ok=True)
        np.save(tmp_path / "a" / f"{i}.npy", np.zeros((28, 28, 3)))
    assert recognise(tmp_path) == ""
    for i in range(3):
        np.save(tmp_path / "a" / f"{i}.npy", ball(7))
    assert recognise(tmp_path)


def test_npz_files_with_parts_are_read(tmp_path: Path) -> None:
    x = np.stack([ball(16, seed=i) for i in range(30)])
    y = np.arange(30) % 3
    np.savez(tmp_path / "a.npz", x_train=x[:20], y_train=y[:20], x_test=x[20:], y_test=y[20:])
    dataset = read(tmp_path / "a.npz", modality="pointclouds")
    assert len(dataset.parts["test"]) == 10


def test_hdf5_files_need_h5py_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ply_data_train0.h5").write_bytes(b"\x89HDF")
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(InputError, match="pip install h5py"):
        read(tmp_path)


def test_hdf5_files_named_for_their_parts_are_joined(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed (pip install h5py)")
    x, y = np.stack([ball(16, seed=i) for i in range(30)]), np.arange(30)[:, None] % 3
    for name, rows in (("train0", slice(10)), ("train1", slice(10, 24)), ("test0", slice(24, 30))):
        with h5py.File(tmp_path / f"ply_data_{name}.h5", "w") as file:
            file["data"], file["label"] = x[rows], y[rows].astype(np.uint8)
    dataset = read(tmp_path)
    assert len(dataset.parts["test"]) == 6
    assert dataset.targets[0].classes == ("0", "1", "2")


def test_of_large_clouds_the_same_random_points_are_drawn_wherever_they_stand() -> None:
    large = ball(3 * CLOUD_MOST)
    x = [ball(30 + i, seed=i) for i in range(11)] + [large]
    dataset = read_clouds(x)
    last = clouds(dataset)[11]
    assert len(last) == CLOUD_MOST
    assert len(np.unique(last, axis=0)) == CLOUD_MOST
    assert {row.tobytes() for row in last} <= {row.tobytes() for row in large}
    assert any(f"1 of 12 clouds {CLOUD_MOST} points" in note for note in dataset.notes)
    alone = clouds(encode([large], dataset.profile, "pointclouds"))[0]
    np.testing.assert_array_equal(alone, last)


def test_the_first_points_of_a_cloud_are_a_sample_of_it() -> None:
    """A cloud stored from left to right: its first quarter would lie on the left."""
    line = np.stack([np.arange(400), np.zeros(400), np.zeros(400)], axis=1).astype(np.float32)
    cloud = clouds(read_clouds([line] * 12))[0]
    assert 150 < cloud[:100, 0].mean() < 250
    np.testing.assert_array_equal(in_order(cloud), line)


def test_space_has_one_scale_unless_its_axes_plainly_differ_in_unit() -> None:
    shape = read_clouds([ball(50, (1, 1, 3), seed=i) for i in range(40)]).profile
    assert len(set(shape.channel_std[:3])) == 1
    seen = read_clouds([ball(50, (1, 1, 90, 7), seed=i) for i in range(40)])
    np.testing.assert_allclose(seen.profile.channel_std, (1, 1, 90, 7), rtol=0.1)
    assert any("each axis is scaled for itself" in note for note in seen.notes)


def test_two_channels_get_a_third_coordinate_of_zero() -> None:
    flat = read_clouds([ball(20, (1, 2), seed=i) for i in range(12)])
    assert flat.profile.inputs["points"][1] == 3
    assert not clouds(flat).values[:, 2].any()
    assert len(set(flat.profile.channel_std)) == 1


def test_the_statistics_are_those_of_the_training_part() -> None:
    x = [ball(20, seed=i) + 5 * (i >= 30) for i in range(40)]
    dataset = read_clouds(x, split="0.5,0.25,0.25")
    rows = clouds(dataset).take(dataset.parts["train"]).values
    np.testing.assert_allclose(dataset.profile.channel_mean, rows.mean(0), rtol=1e-5)
    spread = np.sqrt(rows.var(0).mean())
    np.testing.assert_allclose(dataset.profile.channel_std, [spread] * 3, rtol=1e-5)


def write(path: Path, content: bytes | str | np.ndarray) -> None:
    if isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


SQUARE = "0 0 0\n1 0 0\n1 1 0\n"
VERTICES = "element vertex 3\nproperty float x\nproperty float y\nproperty float z\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.off", "", "empty"),
        ("a.off", "COIFF\n3 0 0\n" + SQUARE, "does not begin with OFF"),
        ("a.off", "OFF\n", "ends after OFF"),
        ("a.off", "OFF\n4 0 0\n" + SQUARE, "promises 4 vertices"),
        ("a.off", "OFF\n0 0 0\n", "no points"),
        ("a.off", "OFF\nthree 0 0\n", "invalid literal"),
        ("a.off", f"OFF\n3 1 0\n{SQUARE}3 0 1 7\n", "vertex 7 of 3"),
        ("a.off", f"OFF\n3 1 0\n{SQUARE}3 0 1 {10**19}\n", "infinite or too large number"),
        (
            "a.ply",
            f"ply\nformat ascii 1.0\n{VERTICES}element face 1\n"
            f"property list uchar int vertex_indices\nend_header\n{SQUARE}3 0 1 inf\n",
            "infinite or too large number",
        ),
        ("a.off", "OFF\n3 0 0\n0 0 0\n1 0\n1 1 0\n", "cannot reshape"),
        ("a.ply", "nothing", "does not begin with ply"),
        ("a.ply", "ply\nformat ascii 1.0\n" + VERTICES, "no end"),
        ("a.ply", f"ply\nformat ascii 1.0\n{VERTICES}end_header\n0 0 0\n", "ends before"),
        (
            "a.ply",
            f"ply\nformat binary_little_endian 1.0\n{VERTICES}end_header\nabc",
            "ends before",
        ),
        ("a.ply", "ply\nformat ascii 1.0\nelement edge 0\nend_header\n", "no vertices"),
        ("a.npy", b"\x93NUMPY", "."),
        ("a.npy", np.zeros((4, 4, 3)), "shape"),
        ("a.npy", np.zeros((0, 3)), "no points"),
        ("a.npy", np.full((4, 3), np.nan), "NaN"),
        ("a.npy", np.full((4, 3), 1e300), "infinite"),
        ("a.npy", np.zeros((4, 5)), "5 channels"),
    ],
)
def test_a_broken_cloud_is_named_in_one_line(
    tmp_path: Path, name: str, content: Any, message: str
) -> None:
    folder = folders(tmp_path / "shapes")
    write(folder / "ball" / name, content)
    with pytest.raises(InputError, match=message) as error:
        read(folder, modality="pointclouds")
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_wrong_arrays_are_refused_in_one_line() -> None:
    y = np.arange(12) % 2
    with pytest.raises(InputError, match="shape"):
        read((np.zeros((12, 3)), y), modality="pointclouds")
    with pytest.raises(InputError, match="12 clouds, but y has 11"):
        read(([ball(4)] * 12, y[:11]), modality="pointclouds")
    with pytest.raises(UsageError, match="labels"):
        read([ball(4)] * 12, modality="pointclouds")
    with pytest.raises(InputError, match="4 channels"):
        read_clouds([ball(4)] * 11 + [ball(4, (1, 1, 1, 1))])


def test_new_clouds_need_the_channels_of_the_training_data(tmp_path: Path) -> None:
    profile = read(folders(tmp_path / "shapes")).profile
    np.save(tmp_path / "new.npy", ball(6, (1, 1, 1, 1)))
    with pytest.raises(InputError, match=r"new.npy has 4 channels"):
        encode(tmp_path / "new.npy", profile, "pointclouds")
    coded = encode(tmp_path / "shapes", profile, "pointclouds")
    assert len(coded.names) == 12


# Networks --------------------------------------------------------------------------------


def batch(*sizes: int, channels: int = 3, grid: float = 0.0) -> tuple[Tensor, Tensor]:
    """Clouds of these sizes, padded; on a grid of this step where it is given."""
    torch.manual_seed(1)
    length = torch.tensor(sizes)
    x = torch.randn(len(sizes), max(sizes), channels)
    if grid:
        x = (x / grid).round() * grid
    return x * (torch.arange(max(sizes)) < length[:, None])[..., None], length


def shaken(network: nn.Module) -> nn.Module:
    """Weights apart from their starts, where branches are zero."""
    torch.manual_seed(2)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return network.eval()


def networks(channels: int = 3) -> dict[str, nn.Module]:
    def front(frame: str = "cloud") -> PointInput:
        return PointInput([0.1] * channels, [1.3] * channels, frame)

    both, mean = CloudConfig(5, pooling="max+avg"), CloudConfig(5, pooling="avg")
    made = {
        "pointnet": PointNet(
            front(), CloudConfig(5, head=(16,)), (8, 8, 32), transform=8, residual=True
        ),
        "pointnet data": PointNet(front("data"), CloudConfig(5, pooling="max+avg"), (8, 32)),
        "dgcnn": DGCNN(front(), both, (8, 8), 32, k=6, dynamic=True, residual=True),
        "dgcnn static": DGCNN(front(), both, (8, 16), 32, k=6, dynamic=False),
        "sparse_cnn": SparseCNN(front(), mean, 12, (Stage(1, 8), Stage(1, 16))),
        "sparse_cnn like MinkUNet": SparseCNN(
            front(), mean, 12, (Stage(1, 8), Stage(2, 16)), stem_stride=2, widening="block"
        ),
        "sparse_cnn data": SparseCNN(
            front("data"), mean, 9, (Stage(1, 8), Stage(1, 8), Stage(1, 8)), extent=2.5
        ),
    }
    return {name: shaken(network) for name, network in made.items()}


@pytest.mark.parametrize("grid", [0.0, 0.25], ids=["anywhere", "on a grid"])
@pytest.mark.parametrize("name", networks())
def test_neither_order_nor_padding_nor_company_changes_the_logits(name: str, grid: float) -> None:
    network, (points, length) = networks()[name], batch(40, 3, 1, 20, grid=grid)
    with torch.inference_mode():
        together = network(points=points, points_length=length)
        for i, size in enumerate(length.tolist()):
            alone = network(points=points[i : i + 1, :size], points_length=length[i : i + 1])
            torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-5)
        order = torch.randperm(40)
        if not grid:  # of equally near neighbours the first are taken
            mixed = network(points=points[:1, order], points_length=length[:1])
            torch.testing.assert_close(mixed[0], together[0], atol=1e-5, rtol=1e-5)
        filled = torch.cat([points, 1e3 * torch.randn(4, 5, 3)], dim=1)  # whatever stands there
        again = network(points=filled, points_length=length)
        torch.testing.assert_close(again, together, atol=1e-5, rtol=1e-5)


def test_a_cloud_frame_is_the_unit_ball_and_a_data_frame_has_the_datas_units() -> None:
    points, length = batch(30, 4, channels=5)
    mean, std = [1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 2.0, 2.0, 0.5, 0.0]
    x, mask = PointInput(mean, std, "data")(points, length)
    expected = (points - torch.tensor(mean)) / torch.tensor([2.0, 2.0, 2.0, 0.5, 1.0])
    torch.testing.assert_close(x[mask], expected[mask])
    assert not x[~mask].any()
    x, mask = PointInput(mean, std, "cloud")(points, length)
    torch.testing.assert_close(x[..., :3].norm(dim=-1).amax(1), torch.ones(2))
    torch.testing.assert_close(x[mask][:, 3:], expected[mask][:, 3:])
    moved = points + torch.tensor([7.0, 8.0, 9.0, 0.0, 0.0]) * mask[..., None]
    torch.testing.assert_close(PointInput(mean, std)(moved, length)[0], x, atol=1e-5, rtol=1e-4)
    first, _ = PointInput(mean, std, "data", points=3)(points, length)
    torch.testing.assert_close(first[0], expected[0, :3])


def test_statistics_of_batchnorm_are_those_of_the_real_points() -> None:
    points, length = batch(20, 3, 9, channels=6)
    mask = torch.arange(20) < length[:, None]
    ours, theirs = MaskedBatchNorm(6), nn.BatchNorm1d(6)
    with torch.no_grad():
        ours.weight.copy_(theirs.weight.normal_())
    x = points.clone().requires_grad_()
    real = points[mask].clone().requires_grad_()
    gradient = torch.randn(len(real), 6)
    y, expected = ours(x, mask), theirs(real)
    torch.testing.assert_close(y[mask], expected)
    (y[mask] * gradient).sum().backward()
    (expected * gradient).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad[mask], real.grad, atol=1e-5, rtol=1e-4)
    assert not x.grad[~mask].any()
    for name, buffer in theirs.named_buffers():
        if name != "num_batches_tracked":
            torch.testing.assert_close(dict(ours.named_buffers())[name], buffer)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, atol=1e-4, rtol=1e-4)


def test_neighbours_are_the_nearest_real_points_by_brute_force() -> None:
    points, length = batch(30, 12, channels=4)
    mask = torch.arange(30) < length[:, None]
    found = nearest(points, mask, 5)
    for b, size in enumerate(length.tolist()):
        distance = torch.cdist(points[b, :size].double(), points[b, :size].double())
        expected = distance.argsort(dim=1, stable=True)[:, :5]
        assert (found[b, :size].sort(1).values == expected.sort(1).values).all()


def test_equally_near_points_are_taken_in_their_order_and_a_small_cloud_repeats_itself() -> None:
    line = torch.tensor([0.0, 1, 2, 3, 4])[None, :, None].expand(1, 5, 3)
    found = nearest(line, torch.ones(1, 5, dtype=torch.bool), 2)
    assert found[0].tolist() == [[0, 1], [1, 0], [2, 1], [3, 2], [4, 3]]
    few = nearest(line, torch.tensor([[True, True, False, False, False]]), 4)
    assert few[0, 0].tolist() == [0, 1, 0, 0]
    assert few[0, 1].tolist() == [1, 0, 1, 1]


def test_an_edge_convolution_is_the_maximum_over_edges_of_one_linear_map() -> None:
    points, length = batch(12, 7, channels=4)
    mask = torch.arange(12) < length[:, None]
    neighbours = nearest(points, mask, 4)
    layer = EdgeConv(4, 6, "none", "relu")
    x = points.clone().requires_grad_()
    y = layer(x, neighbours, mask)
    again = points.clone().requires_grad_()
    expected = torch.zeros(2, 12, 6)
    for b in range(2):
        for i in range(12):
            near = again[b, neighbours[b, i]]
            edges = torch.cat([again[b, i].expand(4, -1), near - again[b, i]], dim=1)
            expected[b, i] = layer.both(edges).amax(0).relu()
    torch.testing.assert_close(y[mask], expected[mask], atol=1e-5, rtol=1e-5)
    weights = torch.randn(2, 12, 6) * mask[..., None]
    (y * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(x.grad, again.grad, atol=1e-5, rtol=1e-4)


def test_the_transform_starts_as_the_identity() -> None:
    points, length = batch(20, 20)
    torch.manual_seed(0)
    turned = PointNet(PointInput([0.0] * 3, [1.0] * 3), CloudConfig(4), (8, 16), transform=8).eval()
    plain = PointNet(PointInput([0.0] * 3, [1.0] * 3), CloudConfig(4), (8, 16)).eval()
    plain.load_state_dict(turned.state_dict(), strict=False)
    torch.testing.assert_close(turned(points, length), plain(points, length))


def test_the_published_networks_have_their_published_sizes() -> None:
    """0.8 M parameters of PointNet without transforms (Qi et al. 2017, table 6) and 1.8 M of
    DGCNN (Wang et al. 2019, table 3), for the 40 classes of ModelNet."""
    front = PointInput([0.0] * 3, [1.0] * 3)
    for network, millions in (
        (PointNet(front, **POINTNET), 0.8),
        (DGCNN(front, **DGCNN_MODELNET), 1.8),
    ):
        assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == millions


# Sparse convolutions ---------------------------------------------------------------------


def occupied(
    clouds: int, side: int, share: float = 0.1, channels: int = 5
) -> tuple[Tensor, Voxels, Tensor]:
    """Features and voxels, and the same as a dense grid (B, C, side, side, side)."""
    torch.manual_seed(3)
    full = torch.rand(clouds, side, side, side) < share
    full[:, 0, 0, 0] = full[:, -1, -1, -1] = True  # corners, where neighbours would be outside
    cloud, *place = full.nonzero().unbind(1)
    voxels, row = Voxels.of(torch.stack(place, 1), cloud, clouds, side)
    assert row.tolist() == list(range(len(cloud)))
    x = torch.randn(len(cloud), channels)
    dense = torch.zeros(clouds, side, side, side, channels)
    dense[full] = x
    return x, voxels, dense.permute(0, 4, 1, 2, 3)


def at(dense: Tensor, voxels: Voxels) -> Tensor:
    place, cloud = voxels.place()
    return dense.permute(0, 2, 3, 4, 1)[cloud, place[:, 0], place[:, 1], place[:, 2]]


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_a_submanifold_convolution_is_conv3d_at_the_occupied_voxels(share: float) -> None:
    x, voxels, dense = occupied(3, 8, share)
    ours, theirs = SubmanifoldConv(5, 7), nn.Conv3d(5, 7, 3, padding=1, bias=False)
    with torch.no_grad():
        weight = ours.weight.view(3, 3, 3, 5, 7).permute(4, 3, 0, 1, 2)
        theirs.weight.copy_(weight)
    x.requires_grad_()
    dense = dense.clone().requires_grad_()
    y, expected = ours(x, voxels), at(theirs(dense), voxels)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
    gradient = torch.randn_like(y)
    y.backward(gradient)
    expected.backward(gradient)
    assert dense.grad is not None
    assert ours.weight.grad is not None
    assert theirs.weight.grad is not None
    torch.testing.assert_close(x.grad, at(dense.grad, voxels), atol=1e-5, rtol=1e-5)
    flat = theirs.weight.grad.permute(2, 3, 4, 1, 0).reshape(27, 5, 7)
    torch.testing.assert_close(ours.weight.grad, flat, atol=1e-4, rtol=1e-4)


def test_halving_the_resolution_is_conv3d_of_stride_two() -> None:
    x, voxels, dense = occupied(2, 8)
    ours, theirs = DownConv(5, 7), nn.Conv3d(5, 7, 2, stride=2, bias=False)
    with torch.no_grad():
        theirs.weight.copy_(ours.weight.view(2, 2, 2, 5, 7).permute(4, 3, 0, 1, 2))
    y, coarse = ours(x, voxels)
    assert coarse.side == 4
    torch.testing.assert_close(y, at(theirs(dense), coarse), atol=1e-5, rtol=1e-5)
    empty = theirs(dense).abs().sum(1) == 0
    assert int((~empty).sum()) == len(coarse.cells)


def test_sorted_cells_find_the_same_neighbours_as_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    x, voxels, _ = occupied(2, 9, 0.2)
    place, cloud = voxels.place()
    layer = SubmanifoldConv(5, 6)
    expected = layer(x, voxels)
    monkeypatch.setattr("nas.models.sparse_conv.TABLE_CELLS", 0)
    twice = torch.cat([place, place[:3]]), torch.cat([cloud, cloud[:2], torch.tensor([2])])
    sorted_, row = Voxels.of(*twice, 2, 9)
    torch.testing.assert_close(layer(x, sorted_), expected)
    assert (sorted_.around == voxels.around).all()
    assert int(row[-1]) == len(sorted_.cells)  # cloud 2 of 2 is padding


def test_the_forms_for_export_and_for_few_clouds_give_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, voxels, _ = occupied(2, 6, 0.3)
    layer = SubmanifoldConv(5, 7)
    expected = layer(x, voxels)
    with torch.no_grad():
        torch.testing.assert_close(layer(x, voxels), expected, atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(layer(x, voxels), expected, atol=1e-5, rtol=1e-5)


def test_voxels_hold_the_mean_place_and_channels_of_their_points() -> None:
    network = SparseCNN(
        PointInput([0.0] * 4, [1.0] * 4, "data"), CloudConfig(2), 4, (Stage(1, 4),), extent=2.0
    )
    points = torch.tensor([[[0.1, 0.2, 0.3, 5.0], [0.3, 0.4, 0.5, 7.0], [-9.0, 9.0, 0.5, 1.0]]])
    x, voxels = network.voxelise(points, torch.tensor([[True, True, True]]))
    place, _ = voxels.place()
    assert place.tolist() == [[0, 3, 2], [2, 2, 2]]  # an outlier falls into the outermost
    # The side of a voxel is 1, and the middle of the second is at 0.5.
    torch.testing.assert_close(x[1], torch.tensor([1.0, -0.3, -0.2, -0.1, 6.0]))


def test_drop_path_leaves_out_whole_clouds() -> None:
    from nas.models.sparse_conv import _Residual

    x, voxels, _ = occupied(16, 6, 0.2)
    torch.manual_seed(0)
    block = _Residual(5, 5, "layer", "relu", 0.5)
    nn.init.ones_(block.norm2.weight)
    _, cloud = voxels.place()
    changed = (block.train()(x, voxels) != x.relu()).any(1)
    by_cloud = [changed[cloud == i].float().mean().item() for i in range(16)]
    assert {round(share) for share in by_cloud} == {0, 1}
    assert all(share in (0.0, 1.0) or share > 0.9 for share in by_cloud)


# Training --------------------------------------------------------------------------------


def test_augmentation_moves_each_cloud_about_its_middle_and_leaves_padding_alone() -> None:
    points, length = batch(30, 12, channels=5)
    mask = torch.arange(30) < length[:, None]
    torch.manual_seed(0)
    turned = augment_points(points, length, rotate="z")
    for b, size in enumerate(length.tolist()):
        before, after = (p[b, :size, None, :3] - p[b, :size, :3] for p in (points, turned))
        torch.testing.assert_close(before.norm(dim=2), after.norm(dim=2), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(points[b, :size, :3].mean(0), turned[b, :size, :3].mean(0))
    torch.testing.assert_close(turned[..., 2:], points[..., 2:])  # about the third axis
    assert (turned - points)[mask][:, :2].abs().max() > 0.1
    noisy = augment_points(points, length, rotate="small", stretch=0.3, jitter=0.05, dropout=0.5)
    torch.testing.assert_close(noisy[~mask], points[~mask])
    still = augment_points(points, length)
    torch.testing.assert_close(still, points)
    with pytest.raises(ValueError, match="unknown rotation"):
        augment_points(points, length, rotate="x")


def test_dropped_points_become_the_clouds_first() -> None:
    points, length = batch(200, 200, channels=3)
    torch.manual_seed(0)
    thinned = augment_points(points, length, dropout=0.5)
    same = torch.isclose(thinned, points, atol=1e-5).all(-1)
    first = torch.isclose(thinned, points[:, :1], atol=1e-5).all(-1)
    assert (same | first).all()
    assert 0 < (~same).float().mean() < 0.5


def test_the_simple_model_distinguishes_balls_from_rods() -> None:
    rng = np.random.default_rng(0)
    x = [ball(int(rng.integers(20, 60)), (1, 1, 1 + 4 * (i % 2)), seed=i) for i in range(120)]
    dataset = read_clouds(x)
    task = Task("pointclouds", dataset.targets, dataset.profile).with_objectives()
    (found,) = baselines(dataset, task)
    assert found["metrics"]["accuracy"] >= 0.9, found


def task(points: int, n_train: int = 5_000, device: str = "cpu") -> Task:
    profile = DataProfile(
        n_train, 50, 50, {"points": (points, 3)}, lengths={"points": (points,) * 7},
        channel_mean=(0.0,) * 3, channel_std=(1.0,) * 3,
    )  # fmt: skip
    target = Target("y", "multiclass", tuple("abcd"), (10,) * 4)
    return Task("pointclouds", (target,), profile, device=device).with_objectives()


def most(space: Space, name: str) -> int:
    param = space[name]
    assert isinstance(param, Choice)
    return max(int(option) for option in param.options)


@pytest.mark.parametrize("points", [1, 3, 20, 128, 2048])
@pytest.mark.parametrize("name", load_families("pointclouds"))
def test_spaces_offer_what_a_cloud_of_that_size_can_bear(name: str, points: int) -> None:
    family = load_families("pointclouds")[name]
    for device in ("cpu", "cuda"):
        space = family.space(task(points, device=device))
        config = space.baseline()
        if "points" in config:
            assert most(space, "points") <= points
            assert int(config["points"]) <= (128 if device == "cpu" else 2048)
        if "k" in config:
            assert most(space, "k") <= points
        network = family.build(config, task(points)).eval()
        x, length = batch(points, max(points // 2, 1))
        assert torch.isfinite(network(points=x, points_length=length)).all()


@pytest.mark.data
def test_mnist_points_are_read_as_stated(data_folder: Path) -> None:
    dataset = read(data_folder / "pointcloud" / "mnist_points", modality="pointclouds")
    assert len(dataset.parts["test"]) == 2000
    assert dataset.profile.inputs == {"points": (128, 3)}
    assert any("each axis is scaled for itself" in note for note in dataset.notes)
