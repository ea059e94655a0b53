"""How fast `nas serve` answers, one client at a time and many at once, beside the network alone.

    python scripts/bench_serve.py MODEL TABLE.csv [--requests 1000] [--clients 32]

Prints the median and the 95th percentile of a request for one row, the median of the network's own
pass in one thread, and how many of the requests of all clients failed.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import torch

import nas
from nas.data import encode
from nas.training.batches import batch_inputs, to_tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("table")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=32)
    given = parser.parse_args()
    frame = pd.read_csv(given.table).head(100)
    rows = json.loads(frame.to_json(orient="records"))
    command = [sys.executable, "-m", "nas", "serve", given.model, "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    address, _, token = server.stdout.readline().strip().partition("  token ")
    port = int(address.rpartition(":")[2])

    def request(connection: http.client.HTTPConnection, row: object) -> tuple[float, int]:
        begin = time.perf_counter()
        connection.request(
            "POST",
            "/predict",
            json.dumps({"rows": [row]}),
            {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        answer = connection.getresponse()
        answer.read()
        return (time.perf_counter() - begin) * 1e3, answer.status

    def client(count: int) -> list[tuple[float, int]]:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        return [request(connection, rows[i % len(rows)]) for i in range(count)]

    try:
        time.sleep(1)
        client(30)
        alone = np.array([ms for ms, _ in client(200)])
        with ThreadPoolExecutor(given.clients) as pool:
            each = -(-given.requests // given.clients)
            many = [x for part in pool.map(client, [each] * given.clients) for x in part]
    finally:
        server.terminate()
    torch.set_num_threads(1)
    model = nas.load(given.model)
    encoded = encode(frame.head(1), model.task.profile, model.task.modality)
    one = torch.arange(1)
    inputs = batch_inputs(to_tensors(encoded.inputs, slice(None), "cpu"), one, one)
    times = []
    with torch.inference_mode():
        for _ in range(200):
            begin = time.perf_counter()
            model.proxy(**inputs)
            times.append((time.perf_counter() - begin) * 1e3)
    failed = sum(status != 200 for _, status in many)
    print(f"one client      p50 {np.median(alone):.2f} ms  p95 {np.quantile(alone, 0.95):.2f} ms")
    print(f"network alone   p50 {np.median(times):.2f} ms")
    taken = np.array([ms for ms, _ in many])
    print(f"{given.clients} clients      p50 {np.median(taken):.2f} ms")
    print(f"{len(many)} requests, {failed} failed")


if __name__ == "__main__":
    main()
