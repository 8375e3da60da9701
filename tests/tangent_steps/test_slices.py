"""Sums in slices of rows are the sums over all rows, whatever is cut; and slices are told from shapes alone."""

import pytest
import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.shard import Shard, at
from fedtangent.tangent_steps import kfac, slices
from fedtangent.tangent_steps.answers import Answers
from fedtangent.tangent_steps.step import score
from fedtangent.training.task import Task, Weights
from tests.tangents.literal_moments import EXAMPLES, KRONECKER, rows
from tests.tangents.networks import weights
from tests.tiny_federation import assert_close, assert_same

NAMES = ["gated", "deep", "conv2d", "convolutions", "transformer", "recurrent", "tied"]


def directions(w: Weights, count: int) -> Weights:
    generator = torch.Generator().manual_seed(count)
    return {
        name: 0.1 * torch.randn(count, *part.shape, generator=generator, dtype=part.dtype) for name, part in w.items()
    }


def answered(task: Task, w: Weights, data: Shard, basis: Weights) -> tuple[object, ...]:
    """Everything that a node of FedKFAC says of its rows."""
    c = torch.tensor([[0.5, 0.2, -1], [1, 0.3, 0.1]], dtype=torch.float64)
    node = Answers(task, "exact", 0.3)
    return (
        node.inputs(data),
        node.moments(w, data),
        kfac.moments(task, w, data, other="exact"),
        node.along(w, basis, data),
        node.losses(w, basis, c, data),
    )


@pytest.mark.few(3)
@pytest.mark.parametrize("name", NAMES)
def test_a_row_at_a_time_gives_the_same_sums(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    example = (EXAMPLES | KRONECKER)[name]
    task, w, data = Task(example.model), weights(example.model), rows(example)
    data = data._replace(real=torch.tensor([True, True, False, True, False]))
    basis = directions(w, 3)
    whole = answered(task, w, data, basis)
    taken: list[int] = []
    summed = slices.summed

    def noted(one: object, data: Shard, row_bytes: int) -> object:
        taken.append(len(slices.slices(len(data.real), row_bytes)))
        return summed(one, data, row_bytes)  # type: ignore[arg-type]

    monkeypatch.setattr(slices, "summed", noted)
    monkeypatch.setattr(slices, "MEMORY", 1)
    assert_close(answered(task, w, data, basis), whole, 1e-10)
    assert set(taken) == {5}


def test_slices_inside_of_vmap(monkeypatch: pytest.MonkeyPatch) -> None:
    example = KRONECKER["deep"]
    task, w = Task(example.model), weights(example.model)
    both, basis = [rows(example, 5, seed=seed) for seed in (1, 2)], directions(w, 3)
    alone = [answered(task, w, data, basis) for data in both]
    monkeypatch.setattr(slices, "MEMORY", 1)
    found = torch.func.vmap(lambda data: answered(task, w, data, basis))(trees.stack(both))
    for number, expected in enumerate(alone):
        assert_close(trees.map(lambda leaf, number=number: leaf[number], found), expected, 1e-10)


def test_where_all_rows_fit_nothing_changes() -> None:
    example = KRONECKER["gated"]
    task, w, data = Task(example.model), weights(example.model), rows(example)
    seen: list[Shard] = []

    def one(data: Shard) -> Tensor:
        seen.append(data)
        return score(task, directions(w, 2), data).total

    assert_same(slices.summed(one, data, 8), score(task, directions(w, 2), data).total)
    assert seen == [data] and seen[0] is data


def test_slices_are_few_and_even() -> None:
    assert slices.slices(750, slices.MEMORY // 750) == [slice(0, 750)]
    found = slices.slices(750, slices.MEMORY // 200)
    assert [part.stop - part.start for part in found] == [187, 188, 187, 188]
    assert slices.held(750, slices.MEMORY // 200) == 188 * (slices.MEMORY // 200)
    assert len(slices.slices(3, 10 * slices.MEMORY)) == 3  # a row at the least
    assert slices.slices(0, 5) == [slice(0, 0)]


def test_no_rows_have_no_loss() -> None:
    """As of a node's only row, none of which is held out."""
    example = KRONECKER["gated"]
    task, w, data = Task(example.model), weights(example.model), rows(example)
    found = score(task, directions(w, 2), at(data, slice(0, 0)))
    assert found.total.tolist() == [0, 0] and found.rows == 0
