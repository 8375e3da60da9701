"""Kernels of 10,000 images: the trace kernel of 784-100-10, and full-kernel evolutions that form none.

    python benchmarks/big_kernels.py [--data-dir DIR] [--samples 10000] [--threads 1,2] [--steps 1000]

The first 10,000 training images of Fashion-MNIST (downloaded into DIR where absent). The floor of the trace kernel is
n^2 products of I + O and of O + C, 2 operations each; that of a product with the full kernel is four passes through
the network's matrices. Times are given in floors at the measured speed of large matrix products.
"""

import argparse
import json
from typing import Any

import measure
import numpy as np
import torch
from torch import Tensor

from fedtangent.datasets.fashion_mnist import fashion_mnist
from fedtangent.models.mlp import mlp
from fedtangent.tangents import evolve, jacobian, kernel
from fedtangent.training import losses

INPUTS, WIDTH, OUTPUTS = 784, 100, 10
LR, TOLERANCE = 0.01, 1e-3
LOSSES = {"cross-entropy": losses.cross_entropy, "squared": losses.squared}


class Counted:
    """An operator, and how many products were taken."""

    def __init__(self, j: Any) -> None:
        self.j, self.shape, self.products = j, j.shape, 0

    def times(self, alpha: Tensor) -> Tensor:
        """K alpha."""
        self.products += 1
        found: Tensor = self.j.times(alpha)
        return found


def alone(what: str, data_dir: str, samples: int, steps: int) -> dict[str, float]:
    """Seconds, GiB beside the result, products and floor of one of the works."""
    data = fashion_mnist(data_dir)
    x, y = data.x_train[:samples], data.y_train[:samples]
    model = mlp((1, 28, 28), OUTPUTS, np.random.default_rng(0))
    speed, results, took, products = large_speed(), [], [], 1
    if what == "trace kernel":
        operations = 2.0 * samples**2 * (INPUTS + 2 * WIDTH + OUTPUTS)
        kernel(model, x[:2], kind="trace")
        peak = measure.peak(lambda: took.append(measure.once(lambda: results.append(kernel(model, x, kind="trace")))))
    else:
        j = Counted(jacobian(model, x))
        j.j.times(torch.zeros_like(j.j.f))
        peak = measure.peak(
            lambda: took.append(
                measure.once(
                    lambda: results.append(
                        evolve(j, j.j.f, y, steps, loss=LOSSES[what], lr=LR, tolerance=TOLERANCE).alpha
                    )
                )
            )
        )
        products = j.products
        operations = products * 4 * 2.0 * samples * (INPUTS * WIDTH + WIDTH * OUTPUTS)
    result = results[0].numel() * results[0].element_size() / 2**30
    return {"s": took[0], "GiB": peak - result, "products": products, "floor": operations, "speed": speed}


def large_speed() -> float:
    """Operations a second of a large matrix product in float32."""
    a = torch.randn(2000, 2000)
    return 2 * 2000**3 / measure.seconds(lambda: a @ a, 5, min)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=1000, help="gradient steps of 0.01 that the evolutions last")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--only", help="measure this alone, and print JSON")
    given = parser.parse_args()
    if given.only:
        print(json.dumps(alone(given.only, given.data_dir, given.samples, given.steps)))
        return
    words = ("--data-dir", given.data_dir, "--samples", str(given.samples), "--steps", str(given.steps), "--only")
    rows: list[list[Any]] = []
    for threads in map(int, given.threads.split(",")):
        for what in ("trace kernel", *LOSSES):
            its = measure.alone(__file__, *words, what, threads=threads)
            gflop, speed = its["floor"] / 1e9, its["speed"] / 1e9
            rows.append([what, threads, its["s"], its["GiB"], its["products"], gflop, speed, its["s"] * speed / gflop])
    heads = ["work", "threads", "s", "GiB beside the result", "products", "GFLOP", "GFLOP/s", "times the floor"]
    print(measure.table(rows, heads))


if __name__ == "__main__":
    main()
