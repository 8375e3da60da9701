"""Answers that share a pass and products are those of a node that is asked nothing else; nothing is hoarded."""

import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fedtangent import multiply_adds, trees
from fedtangent.shard import Shard
from fedtangent.tangent_steps import of_task, once
from fedtangent.tangent_steps.answers import Answers
from fedtangent.training.task import Task
from tests.tangents.networks import inputs

N, K, T = 9, 3, 4
MODELS = {
    "linear": lambda: nn.Sequential(nn.Linear(7, 5)),
    "hidden": lambda: nn.Sequential(nn.Linear(7, 6), nn.ReLU(inplace=True), nn.Linear(6, 5)),
    "without biases": lambda: nn.Sequential(nn.Linear(7, 6, bias=False), nn.Tanh(), nn.Linear(6, 5, bias=False)),
    "deep": lambda: nn.Sequential(nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 5)),
    "no chain": lambda: nn.Sequential(nn.Linear(7, 6), nn.LayerNorm(6), nn.Linear(6, 5)),
}


def task_of(name: str) -> Task:
    torch.manual_seed(5)
    return Task(MODELS[name]().double(), example=inputs(3))


def rows() -> Shard:
    return Shard(inputs(N), torch.arange(N) % 5, torch.arange(N) % 4 != 1)


def asked(task: Task) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(2)
    w = {key: part + 0.1 for key, part in task.w_0.items()}
    basis = {key: torch.randn(K, *part.shape, generator=generator, dtype=torch.float64) for key, part in w.items()}
    return w, basis, torch.randn(T, K, generator=generator, dtype=torch.float64)


def answers(task: Task, w: Any, basis: Any, c: Tensor, data: Shard, wanted: Sequence[int] = range(3)) -> list[Any]:
    """Those `wanted` of the moments, the curvature and the losses."""
    node = Answers(task, "exact", 0.1)
    questions = [
        lambda: node.moments(w, data),
        lambda: node.along(w, basis, data),
        lambda: node.losses(w, basis, c, data),
    ]
    return [questions[place]() for place in wanted]


def same(found: Any, expected: Any) -> bool:
    pairs = zip(trees.leaves(found), trees.leaves(expected), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("name", MODELS)
def test_later_answers_are_those_of_a_node_that_was_asked_nothing_before(name: str) -> None:
    task, data = task_of(name), rows()
    w, basis, c = asked(task)
    expected = [answers(task_of(name), w, basis, c, data, [place])[0] for place in range(3)]
    assert same(answers(task, w, basis, c, data), expected)
    assert same(answers(task, w, basis, c, data), expected)


@pytest.mark.parametrize("name", ["linear", "hidden", "without biases"])
def test_rows_meet_the_first_weights_once(name: str) -> None:
    task, data = task_of(name), rows()
    w, basis, c = asked(task)
    of_task.uses(task, w, data.x)
    first, seen = next(iter(w.values())), []

    class Look(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is F.linear and args[1] is first:
                seen.append(len(args[0]))
            return function(*args, **(kwargs or {}))

    with Look():
        answers(task, w, basis, c, data)
    assert seen == [N]


def test_weights_that_change_in_place_are_others() -> None:
    task, data = task_of("hidden"), rows()
    w, basis, c = asked(task)
    before = answers(task, w, basis, c, data)
    for part in (*w.values(), *basis.values()):
        part.mul_(1.5)
    after = answers(task, w, basis, c, data)
    assert same(after, answers(task_of("hidden"), w, basis, c, data))
    assert not torch.equal(before[1].total, after[1].total)


@pytest.mark.parametrize("gone", ["weights", "rows"])
def test_nothing_is_kept_longer_than_what_it_was_made_of(gone: str) -> None:
    task, data = task_of("hidden"), rows()
    w, basis, _ = asked(task)
    found = of_task.uses(task, w, data.x)
    made = once.linearised(task, w, data.x, found)[0], *once.changes(task, basis, data.x, found).values()
    passed, changed = map(weakref.ref, made)
    del made
    assert passed() is not None and changed() is not None
    if gone == "weights":
        del w, basis
    else:
        del data
    assert passed() is None and changed() is None


def test_the_oldest_goes_where_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    task, shards = task_of("hidden"), [rows() for _ in range(3)]
    w, basis, _ = asked(task)
    found = of_task.uses(task, w, shards[0].x)
    monkeypatch.setattr(once, "MEMORY", 2 * 8 * K * N * 6)

    def changes(data: Shard) -> int:
        return next(iter(once.changes(task, basis, data.x, found).values())).data_ptr()

    first, second = changes(shards[0]), changes(shards[1])
    assert changes(shards[0]) == first  # and is the newest again
    kept = weakref.ref(next(iter(once.changes(task, basis, shards[1].x, found).values())))
    assert next(iter(once.changes(task, basis, shards[1].x, found).values())).data_ptr() == second
    changes(shards[0])
    changes(shards[2])
    assert kept() is None
    assert changes(shards[0]) == first


def test_multiply_adds_hang_on_no_earlier_answer() -> None:
    data = rows()

    def count(wanted: Sequence[int]) -> int:
        task = task_of("hidden")
        w, basis, c = asked(task)
        of_task.uses(task, w, data.x)
        with multiply_adds.Counting() as counting:
            answers(task, w, basis, c, data, wanted)
        return counting.total

    assert count(range(3)) == sum(count([place]) for place in range(3))


def test_many_nodes_at_once_share_nothing() -> None:
    task, data = task_of("hidden"), rows()
    w, basis, _ = asked(task)
    node, x = Answers(task, "refuse", 0.1), torch.stack([data.x, data.x + 1])
    alone = [node.along(w, basis, data._replace(x=one)).total for one in x]

    def one(x: Tensor) -> Tensor:
        return node.along(w, basis, data._replace(x=x)).total

    assert torch.allclose(torch.func.vmap(one)(x), torch.stack(alone), rtol=1e-12)
    assert torch.allclose(torch.func.vmap(one)(x + 1)[0], alone[1], rtol=1e-12)
