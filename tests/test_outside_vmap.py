"""A function that looks at its data sees plain tensors, with or without vmap."""

import pytest
import torch
from torch import Tensor

from fedtangent.outside_vmap import look, outside_vmap, true_for_all


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


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is")  # torch loads forward mode so
def test_a_look_at_the_first_of_what_is_mapped() -> None:
    seen: list[list[float]] = []

    def see(tree: dict[str, Tensor]) -> None:
        seen.append(tree["x"].requires_grad_().tolist())  # which transforms forbid

    def f(x: Tensor) -> Tensor:
        look(see, {"x": x})
        return (x**2).sum()

    x = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    assert torch.func.vmap(torch.func.vmap(torch.func.grad(f)), 1)(x).tolist() == [[[2.0, 4.0]], [[6.0, 8.0]]]
    torch.func.jvp(f, (x[0, 1],), (x[0, 0],))
    torch.func.hessian(f)(x[0, 1])
    f(x[0, 0])
    assert seen == [[1.0, 2.0], [3.0, 4.0], [3.0, 4.0], [1.0, 2.0]]


def test_a_look_may_set_hooks_that_transforms_forbid() -> None:
    def see(x: Tensor) -> None:
        with torch.enable_grad(), torch.autograd.graph.save_on_cpu():
            x.requires_grad_().sin().sum().backward()

    torch.func.grad(lambda x: (look(see, x), x.sum())[1])(torch.ones(2))
    with pytest.raises(RuntimeError, match="saved tensor hooks"):
        torch.func.grad(lambda x: (see(x), x.sum())[1])(torch.ones(2))


def test_what_is_true_for_all_that_is_mapped() -> None:
    seen = []

    def fn(mask: Tensor) -> Tensor:
        seen.append(true_for_all(mask))
        return mask

    mask = torch.tensor([[[True, False, True], [True, True, True]], [[True, True, False], [True, True, True]]])
    fn(mask[0, 0])
    torch.func.vmap(fn)(mask[0])
    torch.func.vmap(torch.func.vmap(fn), in_dims=1)(mask)
    assert seen == [[True, False, True], [True, False, True], [True, False, False]]
