import pytest
import torch
from torch import nn

from fedtangent import trees
from fedtangent.losses import cross_entropy, squared
from fedtangent.task import Task, holding
from tests import federation
from tests.federation import HIDDEN, INPUTS, OUTPUTS, assert_close, assert_same


def test_the_first_weights_are_the_models_own_copied() -> None:
    model = federation.network()
    task = Task(model)
    assert list(task.w_0) == [name for name, _ in model.named_parameters()]
    assert_same(task.w_0, {name: p.detach() for name, p in model.named_parameters()})
    before = trees.map(torch.clone, task.w_0)
    nn.init.zeros_(model[0].weight)
    assert_same(task.w_0, before)
    assert not any(w.requires_grad for w in task.w_0.values())
    assert task.size == INPUTS * HIDDEN + HIDDEN + HIDDEN * OUTPUTS + OUTPUTS
    assert task.loss is cross_entropy


def test_predict_is_the_network_at_any_weights() -> None:
    here, there = federation.network(2), federation.network(3)
    (data,) = federation.shards([4])
    w = {name: p.detach() for name, p in there.named_parameters()}
    assert_same(Task(here).predict(w, data.x), there(data.x).detach())
    assert_same(Task(here).predict(Task(here).w_0, data.x), here(data.x).detach())


def test_frozen_parameters_are_no_weights() -> None:
    model = federation.network()
    model[0].requires_grad_(False)
    task = Task(model)
    assert list(task.w_0) == ["2.weight", "2.bias"]
    x = federation.shards([4])[0].x
    w = {name: torch.zeros_like(value) for name, value in task.w_0.items()}
    assert_same(task.predict(w, x), torch.zeros(4, OUTPUTS, dtype=torch.float64))


def test_tied_weights_are_one() -> None:
    first, second = nn.Linear(6, 6, bias=False).double(), nn.Linear(6, 6, bias=False).double()
    second.weight = first.weight
    task = Task(nn.Sequential(first, second))
    assert list(task.w_0) == ["0.weight"]
    x, w = torch.rand(5, 6, dtype=torch.float64), torch.rand(6, 6, dtype=torch.float64)
    assert_close(task.predict({"0.weight": w}, x), x @ w.T @ w.T)


def test_another_type_leaves_the_users_model_alone() -> None:
    model = federation.network()
    task = Task(model, squared)
    moved = task.to("cpu", torch.float32)
    assert moved.loss is squared
    assert {w.dtype for w in moved.w_0.values()} == {torch.float32}
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert moved.predict(moved.w_0, torch.zeros(2, INPUTS)).dtype == torch.float32
    assert task.to("meta", torch.float64).w_0["0.bias"].device.type == "meta"


def test_a_model_without_trainable_parameters_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^`model` must have trainable parameters; got none. Set requires_grad .*\.$"):
        Task(federation.network().requires_grad_(False))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (nn.Dropout(0.1), r"^`model` must be deterministic; got dropout in train mode at '1'. Call model.eval\(\).$"),
        (
            nn.BatchNorm1d(4),
            r"^`model` must not change in a forward pass; got running statistics .* at '1'. Call .*\.$",
        ),
    ],
)
def test_hidden_chance_and_hidden_state_are_errors(part: nn.Module, message: str) -> None:
    model = nn.Sequential(nn.Linear(3, 4), part)
    with pytest.raises(ValueError, match=message):
        Task(model)
    assert Task(model.eval()).size >= 16


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_that_padding_would_enter_is_an_error(training: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False)).train(training)
    message = r"^`model` must not normalise by whatever rows come together; .* at '1'. Use fedtangent.batch_norm"
    with pytest.raises(ValueError, match=message):
        Task(model)


@pytest.mark.parametrize("part", [nn.Dropout(0.0), nn.GroupNorm(2, 4), nn.InstanceNorm1d(4)])
def test_what_hides_nothing_is_fine_in_train_mode(part: nn.Module) -> None:
    assert Task(nn.Sequential(nn.Linear(3, 4), part)).size >= 16


def test_a_part_takes_what_is_frozen_from_where_it_is_held() -> None:
    task = federation.task()
    part = task.part(["2.bias", "0.weight"])
    assert list(part.w_0) == ["2.bias", "0.weight"] and part.size == INPUTS * HIDDEN + OUTPUTS
    x, other = federation.shards([4])[0].x, trees.map(lambda w: w + 1, task.w_0)
    own, frozen = {name: other[name] for name in part.w_0}, {name: other[name] for name in ("0.bias", "2.weight")}
    with holding(frozen):
        assert_same(part.predict(own, x), task.predict(other, x))
        with holding(trees.scale(frozen, 2.0)):
            assert not torch.equal(part.predict(own, x), task.predict(other, x))
        assert_same(part.predict(own, x), task.predict(other, x))
        assert_same(task.predict(task.w_0, x), federation.task().predict(task.w_0, x))
    assert part.to("cpu", torch.float32).names == part.names


def test_a_part_without_its_frozen_parameters_is_an_error() -> None:
    part = federation.task().part(["2.bias", "0.weight"])
    x = federation.shards([4])[0].x
    message = r"^`predict` must have every parameter, a part of a model those that it is `holding` too; got none of "
    with pytest.raises(RuntimeError, match=message + "'0.bias'"):
        part.predict(part.w_0, x)
    frozen = federation.task().w_0
    with holding({"2.weight": frozen["2.weight"]}), pytest.raises(RuntimeError, match=message + "'0.bias'"):
        part.predict(part.w_0, x)
    with holding(frozen), pytest.raises(RuntimeError, match=message + "'0.bias'"):
        federation.task().predict(part.w_0, x)


def test_an_example_follows_the_task_and_keeps_its_whole_numbers() -> None:
    task = Task(federation.network(), example=torch.ones(1, INPUTS, dtype=torch.float64))
    assert task.example is not None
    moved = task.to("cpu", torch.float32)
    assert moved.example is not None and moved.example.dtype == torch.float32
    ids = Task(federation.network(), example=torch.ones(1, INPUTS, dtype=torch.int64)).to("cpu", torch.float32)
    assert ids.example is not None and ids.example.dtype == torch.int64


def test_a_copy_on_another_type_keeps_what_is_complex() -> None:
    model = federation.network()
    model.register_buffer("phase", torch.tensor([1j]))
    other = Task(model).to("cpu", torch.float32)
    assert (other.model.phase.dtype, other.w_0["0.weight"].dtype) == (torch.complex64, torch.float32)


def test_parameters_that_cannot_be_trained_are_one_sentence() -> None:
    model = federation.network()
    model.phase = nn.Parameter(torch.tensor([1j]))
    with pytest.raises(
        ValueError, match=r"^`model` must train real parameters; got torch.complex64 at 'phase'. Hold torc"
    ):
        Task(model)
    for lazy in (nn.LazyLinear(3), nn.Sequential(nn.Linear(3, 2), nn.LazyBatchNorm1d(affine=False))):
        with pytest.raises(
            ValueError, match=r"^`model` must have all its parameters; got '.*', which is lazy. Call the mo"
        ):
            Task(lazy)


def test_a_model_that_keeps_something_of_a_pass_predicts_the_same_again() -> None:
    class Counts(nn.Linear):
        def __init__(self) -> None:
            super().__init__(INPUTS, OUTPUTS, dtype=torch.float64)
            self.calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return super().forward(x) * self.calls

    task = Task(Counts())
    x = federation.shards([4])[0].x
    assert_same(task.predict(task.w_0, x), task.predict(task.w_0, x))
    assert task.model.calls == 0
