"""AFL: pooled ridge regression, by hand, through features, and as FedKFAC's one step."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedtangent.federation import SERVER
from fedtangent.methods.afl import afl
from fedtangent.methods.fedkfac import fedkfac
from fedtangent.shard import Shard
from fedtangent.training import losses
from fedtangent.training.task import Task
from tests import tiny_federation as federation
from tests.tiny_federation import INPUTS, OUTPUTS, ROWS, assert_close, engine, philox

WIDTH = 3


def shards(targets: bool, sizes: tuple[int, ...] = ROWS) -> list[Shard]:
    rng = philox("afl", 1)
    x = torch.from_numpy(rng.normal(size=(sum(sizes), INPUTS)))
    y = torch.from_numpy(rng.normal(size=(len(x), OUTPUTS)) if targets else rng.integers(OUTPUTS, size=len(x)))
    real = torch.ones(len(x), dtype=torch.bool)
    return [Shard(*part) for part in zip(*(part.split(list(sizes)) for part in (x, y, real)), strict=True)]


def model(bias: bool = True) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.Tanh(), nn.Linear(WIDTH, OUTPUTS, bias=bias)).double()


def ridge_regression(z: Tensor, y: Tensor, ridge: float, bias: bool) -> Tensor:
    """Row by row: what minimises sum |y - W z|^2 + ridge |W|^2."""
    features = z.shape[1] + bias
    c, q = ridge * torch.eye(features, dtype=torch.float64), torch.zeros(OUTPUTS, features).double()
    for row, label in zip(z, y, strict=True):
        own = torch.cat([row, torch.ones(1).double()]) if bias else row
        target = label if label.dim() else torch.eye(OUTPUTS).double()[label]
        c += torch.outer(own, own)
        q += torch.outer(target, own)
    return q @ torch.linalg.inv(c)


def test_by_hand() -> None:
    """Rows 1 and 2 with targets 2 and 5 at two clients, no bias: (2 + 10) / (1 + 4 + 1) = 2."""
    task = Task(nn.Linear(1, 1, bias=False).double(), losses.squared)
    rows = [(1.0, 2.0), (2.0, 5.0)]
    data = [Shard(torch.tensor([[x]]).double(), torch.tensor([[y]]).double(), torch.tensor([True])) for x, y in rows]
    found = federation.run(afl(task, guard=False), data, rounds=1)
    assert_close(found.aggregate, {"weight": torch.tensor([[2.0]]).double()})


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("targets", [True, False])
@pytest.mark.parametrize("ridge", [0.0, 0.7])
def test_is_ridge_regression_of_all_rows(bias: bool, targets: bool, ridge: float) -> None:
    data, net = shards(targets), model(bias)
    found = federation.run(afl(Task(net, losses.squared), ridge=ridge), data, rounds=1).aggregate
    z = torch.cat([net[:2](shard.x) for shard in data]).detach()
    fitted = ridge_regression(z, torch.cat([shard.y for shard in data]), ridge, bias)
    expected = {name: part.detach() for name, part in net.named_parameters()} | {"2.weight": fitted[:, :WIDTH]}
    assert_close(found, expected | ({"2.bias": fitted[:, -1]} if bias else {}), 1e-10)


@pytest.mark.parametrize("sizes", [(sum(ROWS) - 2 * (sum(ROWS) // 3), *[sum(ROWS) // 3] * 2), (5, 4, sum(ROWS) - 9)])
def test_who_holds_which_row_does_not_matter(sizes: tuple[int, ...]) -> None:
    method = afl(Task(model(), losses.cross_entropy), guard=False)
    one = federation.run(method, shards(False), rounds=1)
    assert_close(federation.run(method, shards(False, sizes), rounds=1).aggregate, one.aggregate, 1e-10)


def test_is_fedkfac_of_one_linear_layer_without_damping() -> None:
    """Under the squared loss, with all rows to choose by: the same one step to the optimum."""
    task, data = Task(nn.Linear(INPUTS, OUTPUTS).double(), losses.squared), shards(True)
    exact: dict[str, Any] = {"dampings": (1e-24,), "ridges": (1e-14,), "scales": (1.0,), "momentum": False}
    step = fedkfac(task, **exact, weight_decay=0.0, selection="loss")
    expected = federation.run(step, data, rounds=1).aggregate
    assert_close(federation.run(afl(task, ridge=0.0), data, rounds=1).aggregate, expected, 1e-9)


@pytest.mark.parametrize("targets", [True, False])
def test_on_a_frozen_backbone_fedkfac_is_afl_and_its_steps_through_all_layers_go_beyond(targets: bool) -> None:
    net, data = model(), shards(targets)
    net[0].requires_grad_(False)  # type: ignore[index]
    head = Task(net, losses.squared)
    exact: dict[str, Any] = {"dampings": (1e-24,), "ridges": (1e-14,), "scales": (1.0,), "momentum": False}
    by_steps = federation.run(fedkfac(head, **exact, weight_decay=0.0, selection="loss"), data, rounds=1).aggregate
    best = federation.run(afl(head, ridge=0.0), data, rounds=1).aggregate
    assert_close(by_steps, best, 1e-9)
    net.load_state_dict(best, strict=False)
    whole = Task(net.requires_grad_(True), losses.squared)
    further = fedkfac(whole, weight_decay=0.0, selection="loss", guard=False)
    beyond = federation.run(further, data, rounds=2).aggregate
    assert pooled_loss(whole, beyond, data) < 0.9 * pooled_loss(whole, whole.w_0, data)


def pooled_loss(task: Task, w: dict[str, Tensor], data: list[Shard]) -> float:
    x, y, _ = (torch.cat(column) for column in zip(*data, strict=True))
    return float(task.loss.per_sample(task.predict(w, x), y).mean())


@pytest.mark.parametrize("name", ["sequential", "vectorized"])
def test_later_rounds_send_nothing(name: str) -> None:
    """Down: w. Up: C's triangle, Q, a count; and before, the rows."""
    task = Task(model(), losses.cross_entropy)
    one = federation.run(afl(task), shards(False), rounds=1, engine=engine(name))
    more = federation.run(afl(task), shards(False), rounds=3, engine=engine(name))
    assert_close(more.aggregate, one.aggregate, 0.0)
    features, weights = WIDTH + 1, sum(w.nbytes for w in task.w_0.values())
    up = 8 * (features * (features + 1) // 2 + OUTPUTS * features + 1)
    assert more.ledger.received[SERVER] == len(ROWS) * (8 + up)
    assert more.ledger.sent[SERVER] == len(ROWS) * weights


def test_rows_of_many_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task(model(), losses.cross_entropy)
    one = federation.run(afl(task), shards(False), rounds=1)
    monkeypatch.setattr("fedtangent.tangent_steps.slices.MEMORY", 256 * 3)
    monkeypatch.setattr("fedtangent.methods.afl._AT_ONCE", 256)
    assert_close(federation.run(afl(task), shards(False), rounds=1).aggregate, one.aggregate, 1e-10)


class Twice(nn.Module):
    """Outputs that are not the last layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(INPUTS, OUTPUTS).double()

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.layer(x)  # type: ignore[no-any-return]


def frozen() -> nn.Module:
    net = model()
    net[2].weight.requires_grad_(False)
    return net


def derived(module: nn.Module) -> nn.Module:
    """Its last layer's weight is made of others."""
    return nn.Sequential(module, nn.utils.parametrizations.weight_norm(nn.Linear(20, OUTPUTS))).double()


@pytest.mark.parametrize(
    ("net", "options", "message"),
    [
        (model(), {"ridge": -1.0}, r"^`ridge` must not be negative; got -1\.0\. Use 1\.$"),
        (nn.Sequential(nn.Conv1d(1, 1, 1)), {}, "^`model` must end in a linear layer; got none"),
        (frozen(), {}, r"^`model` must have a last linear layer that is trained and of its own; got 2\.weight frozen"),
        (derived(nn.Linear(INPUTS, 20)), {}, r"got 1\.weight frozen, tied or derived, as by weight_norm\."),
        (Twice(), {}, "^`model` must give the outputs of its last linear layer, 'layer.'; got others for"),
        (
            nn.Sequential(nn.Linear(INPUTS, 20), nn.Linear(20, OUTPUTS)).double(),
            {"ridge": 0.0, "guard": False},
            "^`ridge` must be positive where the rows do not span all 21 features",
        ),
    ],
)
def test_bad_input(net: nn.Module, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        federation.run(afl(Task(net, losses.cross_entropy), **options), shards(False), rounds=1)


def test_sums_that_would_show_a_client_are_refused() -> None:
    with pytest.raises(ValueError, match="must be at least 3 in a sum; got 2"):
        federation.run(afl(Task(model(), losses.cross_entropy)), shards(False, (9, 9)), rounds=1)
    with pytest.raises(ValueError, match="must have at least 8 rows in a sum"):
        federation.run(afl(Task(model(), losses.cross_entropy)), shards(False, (2, 2, 3)), rounds=1)
