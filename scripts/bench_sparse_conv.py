"""What a submanifold convolution costs beside a dense one, on a 5 % occupied 32³ grid.

    OMP_NUM_THREADS=1 python scripts/bench_sparse_conv.py

Forward, and forward with backward, in turn on one thread; the medians, in milliseconds. The
kernel map, which all convolutions of a level share, is timed by itself.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import nn

from nas.models.sparse_conv import SubmanifoldConv, Voxels


def milliseconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--clouds", type=int, default=4)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--occupied", type=float, default=0.05)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    clouds, side, width = args.clouds, args.side, args.width

    cloud, *place = (torch.rand(clouds, side, side, side) < args.occupied).nonzero().unbind(1)
    where = torch.stack(place, dim=1)
    voxels, _ = Voxels.of(where, cloud, clouds, side)
    sparse, x = SubmanifoldConv(width, width), torch.randn(len(cloud), width, requires_grad=True)
    dense = nn.Conv3d(width, width, 3, padding=1, bias=False)
    grid = torch.randn(clouds, width, side, side, side, requires_grad=True)

    def both(forward: Callable[[], torch.Tensor]) -> Callable[[], None]:
        return lambda: forward().sum().backward()  # type: ignore[no-untyped-call]

    works: dict[str, Callable[[], object]] = {
        "sparse forward": lambda: sparse(x, voxels),
        "dense forward": lambda: dense(grid),
        "sparse forward + backward": both(lambda: sparse(x, voxels)),
        "dense forward + backward": both(lambda: dense(grid)),
        "kernel map": lambda: Voxels.of(where, cloud, clouds, side)[0].pairs,
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(args.repeats + 1):
        for name, work in works.items():
            times[name].append(milliseconds(work))
    found = {name: median(each[1:]) for name, each in times.items()}
    print(f"{clouds} x {side}³, {len(cloud)} voxels occupied, {width} channels")
    for name, value in found.items():
        print(f"{name:28s} {value:8.2f} ms")
    for kind in ("forward", "forward + backward"):
        print(f"{kind}: {found[f'dense {kind}'] / found[f'sparse {kind}']:.1f} times as fast")


if __name__ == "__main__":
    main()
