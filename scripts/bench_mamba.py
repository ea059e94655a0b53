"""Time of a training step of Mamba against the length of the texts: it should be linear.

    OMP_NUM_THREADS=1 python scripts/bench_mamba.py

Forward and backward of a batch at each length in turn, several times over; the median of this
process's own time, which other work on the machine disturbs less than the clock's. Linear is
a ratio of 4 from 256 tokens to 1,024.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch

from nas.models.encoder import EmbeddingConfig
from nas.models.mamba import MambaConfig, TextMamba

LENGTHS = (256, 512, 1024)


def step_ms(network: TextMamba, batch: int, length: int) -> float:
    tokens = torch.randint(2, 1000, (batch, length))
    lengths = torch.full((batch,), length)
    begin = time.process_time()
    network(tokens=tokens, tokens_length=lengths).square().sum().backward()
    return (time.process_time() - begin) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = TextMamba(
        EmbeddingConfig(1000), max(LENGTHS), 2, MambaConfig(options.dim, options.depth)
    )
    times: dict[int, list[float]] = {length: [] for length in LENGTHS}
    for repeat in range(options.repeats + 1):
        for length in LENGTHS:
            taken = step_ms(network, options.batch, length)
            if repeat:  # the first warms up
                times[length].append(taken)
    for length in LENGTHS:
        ratio = median(times[length]) / median(times[LENGTHS[0]])
        print(f"length {length:5d}  {median(times[length]):8.1f} ms a step  x {ratio:.2f}")


if __name__ == "__main__":
    main()
