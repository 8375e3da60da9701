import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fedtangent import trees
from fedtangent.training import dropout
from fedtangent.training.losses import cross_entropy, squared
from fedtangent.training.task import Task, holding, training
from tests import tiny_federation as federation
from tests.tiny_federation import HIDDEN, INPUTS, OUTPUTS, assert_close, assert_same


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
        (
            nn.InstanceNorm1d(4, track_running_stats=True),
            r"^`model` must not change in a forward pass; got running statistics .* at '1'. Call .*\.$",
        ),
        (
            nn.LSTM(4, 5, 2, dropout=0.25),
            r"^`model` must not drop out inside of a recurrent layer in train mode; got dropout 0.25 at '1'. Put .*\.$",
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
    model[1] = nn.BatchNorm1d(4).train(training)
    model[1].track_running_stats = False  # by the batch in train mode alone
    if training:
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


class Told(nn.Module):
    """Its own mode as the output."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.seen = nn.Parameter(torch.ones(2)), 0

    def train(self, mode: bool = True) -> "Told":
        self.seen += 1
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 3:
            raise ArithmeticError
        return self.w * x + 10 * self.training


def test_the_model_is_in_its_own_mode_in_training_and_in_eval_mode_elsewhere() -> None:
    """The layers tell their modes by 10 each; batch norm alone takes the batch for what is measured inside a step."""
    part, frozen, norm = Told(), Told().eval(), nn.BatchNorm1d(2, eps=1e-9)
    model = nn.Sequential(part, frozen, norm)
    task, seen, modes = Task(model), part.seen, [one.training for one in model.modules()]
    x = torch.tensor([[1.0, 3.0], [2.0, 5.0], [3.0, 4.0], [6.0, 0.0]])
    by_batch = (x - x.mean(0)) / x.std(0, correction=0)
    assert_close(task.predict(task.w_0, x), x, 1e-6)
    with training(None, None):
        assert_close(task.predict(task.w_0, x), by_batch, 1e-6)
        with dropout.off():
            assert_close(task.predict(task.w_0, x), by_batch, 1e-6)
        norm.eval()
        assert_close(task.predict(task.w_0, x), x + 10, 1e-6)
        with dropout.off():
            assert_close(task.predict(task.w_0, x), x, 1e-6)
    norm.train()
    with pytest.raises(ArithmeticError):
        task.predict(task.w_0, x[:3])
    assert [one.training for one in model.modules()] == modes and part.seen == seen
    assert norm.num_batches_tracked == 0


def test_attention_in_train_mode_is_measured_under_vmap_as_well() -> None:
    """Whose fast path in eval mode has no rule for vmap."""
    torch.manual_seed(0)
    task = Task(nn.TransformerEncoderLayer(6, 2, 7, dropout=0.3, batch_first=True))
    x = torch.randn(3, 4, 5, 6)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        found = torch.func.vmap(lambda x: task.predict(task.w_0, x))(x)
        expected = task.model.eval()(x.flatten(0, 1)).unflatten(0, (3, 4))
    assert torch.backends.mha.get_fastpath_enabled()
    torch.testing.assert_close(found, expected)


class Noisy(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (torch.randn_like(x[:, :1]) if self.training else 0)


@pytest.mark.parametrize(
    ("part", "example", "draws"),
    [
        (nn.Dropout(0.5), None, True),
        (nn.Dropout(0.5).eval(), None, False),
        (nn.Dropout(0.0), torch.ones(2, 3), False),
        (nn.BatchNorm1d(4), torch.ones(2, 3), False),
        (Noisy(4, 2), torch.ones(2, 3), True),
        (Noisy(4, 2), None, False),  # nothing tells it
        (Noisy(4, 2).eval(), torch.ones(2, 3), False),
    ],
)
def test_a_task_knows_whether_it_draws(part: nn.Module, example: Tensor | None, draws: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 4), part)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert Task(model, example=example).draws is draws
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(dict(model.state_dict()), before)


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
