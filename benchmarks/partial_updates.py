"""A cycle of FedPart beside as many rounds of full updates: seconds, multiply-adds, bytes.

    python benchmarks/partial_updates.py [--clients 2] [--images 500] [--warm-up 5] [--threads 1,2] [--repeats 3]

FedAvg with ResNet-8 on 3 x 32 x 32, one epoch of Adam at 0.001 in batches of 32, normalised by batch and by group. A
cycle is 5 full rounds and two for each of ten groups of layers. Every way runs alone in a process, in turn; the seconds
are a cycle's, without evaluation, and the ratios those to full updates in the same turn.
"""

import argparse
import json
import os
import statistics
import sys

import measure
import numpy as np
import torch

import fedtangent
from fedtangent.shard import Dataset, Partition

SHAPE, CLASSES, GROUPS = (3, 32, 32), 10, 10


def alone(way: str, norm: str, clients: int, images: int, warm_up: int) -> dict[str, float]:
    """What a cycle takes, runs and sends to the server."""
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(CLASSES, size=clients * images))
    x = torch.from_numpy(rng.standard_normal((clients * images, *SHAPE), dtype=np.float32))
    run = fedtangent.run(
        "fedpart" if way == "partial" else "fedavg",
        dataset=Dataset("noise", x, labels, x[:100], labels[:100], CLASSES),
        model="resnet8",
        partition=Partition(list(np.arange(clients * images).reshape(clients, images))),
        rounds=warm_up + 2 * GROUPS,
        batch=32,
        lr=0.001,
        optimizer="adam",
        norm=norm,
        **({"warm_up": warm_up} if way == "partial" else {}),
    )
    last = run.rounds[-1]
    taken = sum(entry["seconds"] for entry in run.rounds)
    return {"s": taken, "multiply_adds": last["multiply_adds"], "uplink_bytes": last["uplink_bytes"]}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--images", type=int, default=500, help="a client's")
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs=2, metavar=("WAY", "NORM"), help="measure this alone, print JSON")
    given = parser.parse_args()
    if given.only:
        print(json.dumps(alone(*given.only, given.clients, given.images, given.warm_up)))
        return
    print("load average before:", *(f"{load:.1f}" for load in os.getloadavg()))
    sizes = ("--clients", str(given.clients), "--images", str(given.images), "--warm-up", str(given.warm_up))
    rows: list[list[object]] = []
    for threads in map(int, given.threads.split(",")):
        for norm in ("batch", "group"):
            full: list[dict[str, float]] = []
            partial: list[dict[str, float]] = []
            for _ in range(given.repeats):
                for way, found in (("full", full), ("partial", partial)):
                    found.append(measure.alone(__file__, *sizes, "--only", way, norm, threads=threads))
                    print(way, norm, threads, found[-1], file=sys.stderr, flush=True)
            ratios = {
                name: [part[name] / all_[name] for part, all_ in zip(partial, full, strict=True)] for name in full[0]
            }
            spread = f"{min(ratios['s']):.3g} to {max(ratios['s']):.3g}"
            middle = [statistics.median(ratios[name]) for name in ("s", "multiply_adds", "uplink_bytes")]
            rows.append([norm, threads, statistics.median(its["s"] for its in full), middle[0], spread, *middle[1:]])
    heads = ["norm", "threads", "s, full", "s, partial by full", "spread", "multiply-adds", "uplink"]
    print(measure.table(rows, heads))


if __name__ == "__main__":
    main()
