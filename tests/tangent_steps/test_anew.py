"""A tangent step whose factors are found anew, slice by slice, is the step with all factors in memory."""

from typing import Any, Literal

import pytest
import torch

from fedtangent import shard, trees
from fedtangent.methods.ntkdfl import ntkdfl
from fedtangent.methods.ntkfl import ntkfl
from fedtangent.methods.sumntk import sumntk
from fedtangent.shard import Shard
from fedtangent.tangent_steps import anew, slices
from fedtangent.tangent_steps.step import Step, bill, linearised_rows
from fedtangent.training import losses
from fedtangent.training.task import Task
from tests import tiny_federation as federation
from tests.tangents.literal_moments import EXAMPLES, KRONECKER, rows
from tests.tangents.networks import weights
from tests.tiny_federation import assert_close

KINDS = ["trace", "full"]
NAMES = ["gated", "conv2d", "convolutions", "transformer", "recurrent"]


def stepped(kind: Literal["trace", "full"], clock: Literal["flow", "descent"]) -> Step:
    return Step(kind, clock, (2, 5), 0.3, selection="linearised")


CASES = [
    *((name, kind, anew.KERNEL) for name in NAMES for kind in KINDS),
    *((name, "full", 1) for name in NAMES),
    *((name, "trace", 1) for name in ("gated", "conv2d")),
]
OFTEN = [(name, "full", anew.KERNEL) for name in NAMES]


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("name", "kind", "kernel"),
    [case if case in OFTEN else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_the_step_is_that_of_factors_in_memory(
    name: str, kind: Literal["trace", "full"], kernel: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the kernel in memory or not, two rows at a time or so, and rows that are none."""
    example = (EXAMPLES | KRONECKER)[name]
    task, w, data = Task(example.model), weights(example.model), rows(example)
    data = data._replace(real=torch.tensor([True, True, False, True, True]))
    step = stepped(kind, "flow")
    expected = step.candidates(task, w, linearised_rows(task, w, data), 0.3)
    monkeypatch.setattr(anew, "ROW", 0)
    monkeypatch.setattr(anew, "KERNEL", kernel)
    monkeypatch.setattr(anew, "FACTORS", 2**16)
    monkeypatch.setattr(slices, "MEMORY", 2**12)
    found = linearised_rows(task, w, data)
    assert found.factors == {}
    assert_close(step.candidates(task, w, found, 0.3), expected, 1e-8)


@pytest.mark.parametrize("clock", ["flow", "descent"])
@pytest.mark.parametrize("kernel", [anew.KERNEL, 1])
def test_nodes_at_once(clock: Literal["flow", "descent"], kernel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    example = KRONECKER["deep"]
    task, w = Task(example.model, losses.squared), weights(example.model)
    both = [rows(example, 5, squared=True, seed=seed) for seed in (1, 2)]
    step = stepped("full", clock)
    expected = [step.candidates(task, w, linearised_rows(task, w, data), 0.3) for data in both]
    monkeypatch.setattr(anew, "ROW", 0)
    monkeypatch.setattr(anew, "KERNEL", kernel)
    found = torch.func.vmap(lambda data: step.candidates(task, w, linearised_rows(task, w, data), 0.3))(
        trees.stack(both)
    )
    for number, one in enumerate(expected):
        assert_close(trees.map(lambda leaf, number=number: leaf[number], found), one, 1e-9)


def test_padding_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anew, "ROW", 0)
    task, (data, *_) = federation.task(), federation.shards()
    alone = linearised_rows(task, task.w_0, data)
    spoilt = torch.full((2, federation.INPUTS), torch.nan).double()
    real = torch.cat([data.real, torch.zeros(2, dtype=torch.bool)])
    padded = linearised_rows(task, task.w_0, Shard(torch.cat([data.x, spoilt]), torch.cat([data.y, data.y[:2]]), real))
    for kind in ("trace", "full"):
        step = Step(kind, "flow", (2, 5), 0.3)  # type: ignore[arg-type]
        found, expected = (step.candidates(task, task.w_0, its, 0.3) for its in (padded, alone))
        assert_close(found, expected, 1e-12)


@pytest.mark.parametrize("name", ["gated", "convolutions", "transformer", "recurrent"])
def test_the_bill_is_that_of_the_factors(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    example = (EXAMPLES | KRONECKER)[name]
    task, w, data = Task(example.model), weights(example.model), rows(example)
    weigh = {exchange: bill(task, exchange) for exchange in ("jacobian", "factors")}
    expected = {exchange: its(linearised_rows(task, w, data)) for exchange, its in weigh.items()}
    monkeypatch.setattr(anew, "ROW", 0)
    found = linearised_rows(task, w, data)
    assert {exchange: its(found) for exchange, its in weigh.items()} == expected
    assert weigh["factors"](shard.join([found, found])) == 2 * expected["factors"]


OPTIONS: dict[Any, dict[str, Any]] = {
    ntkfl: {"participation": 0.5, "exchange": "factors"},
    ntkdfl: {"exchange": "factors"},
    sumntk: {"columns": 2},
}


@pytest.mark.few(3)
@pytest.mark.parametrize("method", OPTIONS)
@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
def test_a_run_is_the_same(method: Any, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = method(federation.task(), times=(2, 5), **OPTIONS[method])
    runner = federation.engine(engine, 6)
    expected = federation.run(made, engine=runner)
    monkeypatch.setattr(anew, "ROW", 0)
    found = federation.run(made, engine=runner)
    assert_close(found.aggregate, expected.aggregate, 1e-9)
    assert found.ledger.sent_bytes == expected.ledger.sent_bytes


def test_small_factors_stay_in_memory() -> None:
    """784-100-10 has its own way, and LeNet this one."""
    small = torch.nn.Sequential(torch.nn.Linear(784, 100), torch.nn.ReLU(), torch.nn.Linear(100, 10))
    task = Task(small, example=torch.zeros(1, 784))
    data = Shard(torch.zeros(2, 784), torch.zeros(2, dtype=torch.int64), torch.ones(2, dtype=torch.bool))
    assert linearised_rows(task, task.w_0, data).factors
