"""A real federation on one machine: from start to the first round, what a round takes beside one process, and a kill.

    python benchmarks/sites.py [--sites 8] [--rounds 40] [--repeats 3]

A server and its sites, each a process of the command line with a tiny file of its own, on loopback; FedAvg of a linear
model, so that messages are small and all is overhead. Medians. A recovery goes from a kill of a site, which is started
again at once, to the end of the round that was broken off; the start of Python and PyTorch is within it.
"""

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from fedtangent.experiments.experiment import experiment
from fedtangent.experiments.run import run
from fedtangent.shard import Dataset, Partition
from fedtangent.sites.provision import provision

ROWS, FEATURES = 40, 10


def free() -> int:
    """A port."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def started(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """A process of the command line."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("ab") as file:
        command = [sys.executable, "-m", "fedtangent", *words]
        return subprocess.Popen(command, stdout=file, stderr=file, env=variables)


def until(log: Path, text: str) -> float:
    """When a process has said something."""
    while text not in log.read_text():
        time.sleep(0.005)
    return time.perf_counter()


def files(folder: Path, names: list[str]) -> tuple[Dataset, Partition]:
    """A file of every site; and the same as one process has it."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(len(names) * ROWS, FEATURES)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    index = np.split(np.arange(len(y)), len(names))
    for name, rows in zip(names, index, strict=True):
        np.savez(folder / f"{name}.npz", x_train=x[rows], y_train=y[rows], x_test=x[rows], y_test=y[rows])
    x_all, y_all = torch.from_numpy(x), torch.from_numpy(y)
    return Dataset("tiny", x_all, y_all, x_all, y_all, 2), Partition(index, None, index)


def federation(folder: Path, names: list[str], rounds: int, killed: str | None) -> dict[str, float]:
    """Seconds to the first round, from the moment when the last process is ready too, of a round, and of a recovery."""
    server = f'[server]\naddress = "127.0.0.1:{free()}"\n'
    text = 'name = "tiny"\n' + server + "".join(f"[sites.{name}]\n" for name in names)
    (folder / "federation.toml").write_text(text)
    provision(folder / "federation.toml", folder / "kits")
    log = folder / "server.log"
    log.touch()
    asked = ["fedavg", "--model", "linear", "--rounds", str(rounds), "--out", str(folder / "run")]
    own = {name: ["--dataset", "npz", "--data-dir", str(folder / f"{name}.npz")] for name in names}
    begun = time.perf_counter()
    sites = {name: started(["site", f"{folder}/kits/{name}", *own[name]], folder / f"{name}.log") for name in names}
    sites["server"] = started(["server", f"{folder}/kits/server", *asked], log)
    ready = max(until(folder / f"{name}.log", f"{name} is ready") for name in sites)
    first, recovery = until(log, "round 1/"), 0.0
    if killed is not None:
        half = until(log, f"round {rounds // 2}/")
        sites[killed].send_signal(signal.SIGKILL)
        sites[killed].wait()
        sites[killed] = started(["site", f"{folder}/kits/{killed}", *own[killed]], folder / f"{killed}.log")
        until(log, "as soon as all are there")
        done = log.read_text().count("round ")
        while log.read_text().count("round ") == done:
            time.sleep(0.005)
        recovery = time.perf_counter() - half
    last = until(log, f"round {rounds}/")
    for process in sites.values():
        assert process.wait() == 0, log.read_text()
    found = {"start": first - begun, "ready": first - ready, "round": (last - first) / (rounds - 1)}
    return {"recovery": recovery} if killed is not None else found


def alone(dataset: Dataset, partition: Partition, rounds: int, out: Path) -> float:
    """Seconds of a round in one process."""
    ends: list[float] = []
    asked = experiment(
        "fedavg", model="linear", rounds=rounds, dataset=dataset, partition=partition, engine="sequential"
    )
    run(asked, out, on_round=lambda _: ends.append(time.perf_counter()))
    return (ends[-1] - ends[0]) / (rounds - 1)


def main() -> None:
    """Prints a line a measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    names = [f"site{number}" for number in range(asked.sites)]
    found: dict[str, list[float]] = defaultdict(list)
    for repeat in range(asked.repeats):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            dataset, partition = files(place, names)
            for name, seconds in federation(place, names, asked.rounds, None).items():
                found[name].append(seconds)
            found["one"].append(alone(dataset, partition, asked.rounds, place / "alone"))
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            files(place, names)
            found["recovery"].append(federation(place, names, asked.rounds, names[repeat % len(names)])["recovery"])
    middle = {name: statistics.median(values) for name, values in found.items()}
    print(f"{asked.sites} sites and a server, {os.cpu_count()} cores")
    print(f"from start to the end of the first round  {middle['start']:.2f} s")
    print(f"from the last process's readiness on      {middle['ready']:.2f} s")
    print(f"a round                                   {1000 * middle['round']:.1f} ms")
    print(f"a round in one process                    {1000 * middle['one']:.1f} ms")
    print(f"from a kill to the end of the round       {middle['recovery']:.2f} s")


if __name__ == "__main__":
    main()
