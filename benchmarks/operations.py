"""What a round asks of a device, counted on a CPU: operations that a GPU would launch, and looks at their results.

    python benchmarks/operations.py [--nodes 300] [--methods fedkfac,dfedkfac,...] [--memory BYTES]

The digits, the vectorized engine, one round after one that warms up. Counted are the calls that reach PyTorch's kernels
and write numbers (views do not); a look is a call whose result the host waits for: a number read, the places of nonzero
entries. What is read through NumPy is no call, and is not counted. Many small tensors are put together as on a GPU.
"""

import argparse
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fedtangent import many
from fedtangent.experiments.experiment import experiment
from fedtangent.experiments.setup import setup

METHODS = ("fedavg", "dfedavg", "ntkdfl", "fedkfac", "dfedkfac")
OPTIONS: dict[str, dict[str, Any]] = {
    "ntkdfl": {"exchange": "factors"},
    "dfedavg": {"epochs": 1},
    "fedavg": {"epochs": 1},
}
LOOKS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2", "unique_dim")
VIEWS = ("detach", "alias", "empty", "lift_fresh")


class Counted(TorchDispatchMode):
    """Counts launches and looks, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.looks: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        if name in LOOKS:
            self.looks[name] += 1
        elif not (func.is_view or name.startswith(VIEWS)):
            self.launches[name] += 1
        return func(*args, **(kwargs or {}))


def counted(method: str, nodes: int, memory: int | None) -> Counted:
    """The counts of the second round."""
    engine = {} if memory is None else {"memory": memory}
    chosen = experiment(
        method=method, dataset="digits", partition="iid", nodes=nodes, rounds=2, engine="vectorized",
        evaluate_nodes_every=0, **engine, **OPTIONS.get(method, {}),
    )  # fmt: skip
    built = setup(chosen)
    wire = built.wire()
    start = built.fleet(0, wire)
    data_k = start.each(list(built.data))
    state, _ = built.play(built.fleet(1, wire), built.method.init(start, data_k), data_k, 1)
    with Counted() as counts:
        built.play(built.fleet(2, wire), state, data_k, 2)
    return counts


def main() -> None:
    """Prints a line a method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=300)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--memory", type=int)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(many, "_launches"):
        many._launches = lambda tree: True
    print(f"{'method':10}{'launches':>10}{'looks':>8}  most of them")
    for method in asked.methods.split(","):
        counts = counted(method, asked.nodes, asked.memory)
        most = ", ".join(f"{name} {count}" for name, count in (counts.launches + counts.looks).most_common(6))
        print(f"{method:10}{counts.launches.total():10}{counts.looks.total():8}  {most}", flush=True)


if __name__ == "__main__":
    main()
