"""A function that looks at its data sees plain tensors, with or without vmap."""

import torch
from torch import Tensor

from fedtangent.tangents.outside_vmap import outside_vmap


def test_the_whole_batch_is_seen_at_once() -> None:
    seen = []

    def solve(tree: dict[str, Tensor], y: Tensor) -> Tensor:
        seen.append((tree["x"].tolist(), y.tolist()))  # fails on the tensors of a vmap
        return tree["x"][:, None] * y

    x, y = torch.tensor([1.0, 2.0]), torch.tensor([[3.0], [5.0]])
    assert outside_vmap(solve, {"x": x[0]}, y[1]).tolist() == [5.0]
    mapped = torch.func.vmap(lambda x, y: outside_vmap(solve, {"x": x}, y))
    assert mapped(x, y).tolist() == [[3.0], [10.0]]
    alike = torch.func.vmap(lambda x, y: outside_vmap(solve, {"x": x}, y), in_dims=(None, 1))
    assert alike(x[1], y).tolist() == [[6.0, 10.0]]
    assert seen == [([1.0], [[5.0]]), ([1.0, 2.0], [[3.0], [5.0]]), ([2.0], [[3.0, 5.0]])]
