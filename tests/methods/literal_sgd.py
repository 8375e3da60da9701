"""Torch's own optimisers in shuffled batches: what every method that trains locally must equal."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn


def train(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    rng: np.random.Generator,
    epochs: int,
    batch: int,
    lr: float,
    momentum: float,
    by: str = "sgd",
    term: Callable[[nn.Module, Tensor], Tensor] | None = None,
) -> None:
    """Trains the model in place; momentum and moments start at zero. A term of (model, x) is added to the loss."""
    if by == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(epochs):
        for rows in torch.from_numpy(rng.permutation(len(x))).split(batch):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x[rows]), y[rows])
            (loss if term is None else loss + term(model, x[rows])).backward()
            optimizer.step()
