from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch

from fedtangent import trees
from fedtangent.federation import SERVER
from fedtangent.methods.fedkfac import fedkfac
from fedtangent.shard import Shard
from fedtangent.tangent_steps import span
from fedtangent.training import losses
from fedtangent.training.task import Task
from tests import tiny_federation as federation
from tests.methods import literal_kfac as literal
from tests.tiny_federation import HIDDEN, INPUTS, OUTPUTS, ROWS, assert_close, assert_same, philox

K = len(ROWS)
FEW: dict[str, Any] = {
    "dampings": (0.03, 2.0),
    "ridges": (1e-3, 0.3),
    "scales": (0.4, 1.0),
    "weight_decay": 0.02,
    "balance": 1.0,
    "guard": False,
}
LOCAL = {"epochs": 2, "batch": 3, "lr": 0.1, "local_momentum": 0.6}
HALF = partial(federation.wire, "bfloat16", messages=("directions",))
OPTIONS: dict[str, dict[str, Any]] = {
    "held-out": {},
    "loss": {"selection": "loss"},
    "half of the clients": {"participation": 0.5},
    "one client": {"participation": 0.01, "selection": "loss"},
    "no momentum": {"momentum": False},
    "single try": {"ridges": (0.1,), "scales": (0.7,), "selection": "loss"},
    "squared": {"loss": "squared"},
    "balanced": {"balance": 1.5},
    "balanced half": {"balance": 4.0, "participation": 0.5},
    "balanced, squared": {"balance": 1.3, "loss": "squared", "selection": "loss"},
    "bfloat16": {"wire": "bfloat16"},
    "local epochs": {**LOCAL},
    "local epochs of half": {**LOCAL, "participation": 0.5, "balance": 4.0, "momentum": False},
    "local epochs, squared": {**LOCAL, "loss": "squared", "lr": 0.3},
    "local epochs at first, shrinkage": {**LOCAL, "local_rounds": 2, "shrinkage": 0.3},
    "shrinkage": {"shrinkage": 0.1, "momentum": False},
}


def joined(parts: Sequence[Shard]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts])


def split(data: Shard, node: int, selection: str) -> tuple[Shard, Shard]:
    """The rows of the step and those of the choice."""
    if selection == "loss":
        return data, data
    order = philox("held-out", 0, node).permutation(len(data.x))
    tenth = min(max(len(data.x) // 10, 1), len(data.x) - 1)
    return Shard(*(part[order[tenth:]] for part in data)), Shard(*(part[order[:tenth]] for part in data))


def transcript(
    rounds: int,
    loss: str,
    balance: float,
    guard: bool,
    participation: float = 1.0,
    selection: str = "held-out",
    epochs: int = 0,
    local_rounds: int = 9,
    shrinkage: float = 0.0,
    **given: Any,
) -> tuple[dict[str, torch.Tensor], list[int]]:
    """The server's weights after some rounds, and the candidates that it chose."""
    local = {name: given.pop(name) for name in ("batch", "lr", "local_momentum") if epochs}
    data, step, chosen = federation.shards(), literal.Step(**given, loss=loss), []
    w = federation.network().state_dict()
    v, first = literal.zeros(w), literal.first_inputs(joined(data)[0]) / sum(ROWS)
    for k in range(1, rounds + 1):
        drawn = philox("cohort", k).choice(K, max(int(participation * K), 1), replace=False).tolist()
        fit, held = zip(*(split(data[i], i, selection) for i in drawn), strict=True)
        (x, y), (x_held, y_held) = joined(fit), joined(held)
        weight = literal.row_weights(joined(data)[1], y, balance, OUTPUTS)
        before, u = {name: (1 - shrinkage) * part for name, part in w.items()}, None
        w = before
        if epochs and k <= local_rounds:
            u = literal.zeros(w)
            for i, part in zip(drawn, fit, strict=True):
                w_k = literal.local(w, part, philox("batches", k, i), step, epochs, **local)
                u = {name: u[name] + len(part.y) / len(y) * (w_k[name] - w[name]) for name in w}
            w = {name: w[name] + u[name] for name in w}
        tries = literal.candidates(w, v, first, x, y, step, weight, u)
        of = dict(zip(y.tolist(), weight, strict=True))
        chosen.append(literal.best(tries, x_held, y_held, loss, torch.stack([of[label] for label in y_held.tolist()])))
        w, v = tries[chosen[-1] - 1], literal.subtract(tries[chosen[-1] - 1], before)
    return w, chosen


@pytest.mark.few(6)
@pytest.mark.parametrize("name", OPTIONS)
def test_is_the_algorithm(name: str) -> None:
    options = {**FEW, **OPTIONS[name]}
    loss = options.pop("loss", "cross_entropy")
    coded = {"wire": HALF()} if "wire" in options else {}
    own = {key: value for key, value in options.items() if key != "wire"}
    found = federation.run(fedkfac(Task(federation.network(), losses.NAMES[loss]), **own), rounds=3, **coded)
    w, chosen = transcript(3, loss, **options)
    assert [int(extra["choice"]) for extra in found.extras] == chosen
    assert [int(extra["refused"]) for extra in found.extras] == [0, 0, 0]
    assert not any(bool(extra["failed"]) for extra in found.extras)
    assert_close(found.aggregate, w, 1e-9)


def test_the_choice_is_made_among_several() -> None:
    chosen = {choice for name in ("held-out", "loss", "squared") for choice in transcript(3, **named(name))[1]}
    assert len(chosen) > 1


def named(name: str) -> dict[str, Any]:
    return {"loss": "cross_entropy", **FEW, **OPTIONS[name]}


@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
def test_a_loss_of_ones_own_takes_the_same_steps(engine: str) -> None:
    own = Task(federation.network(), losses.custom(torch.nn.functional.cross_entropy))
    found = federation.run(fedkfac(own, **FEW), engine=federation.engine(engine, memory=4))
    assert_close(found.aggregate, federation.run(fedkfac(federation.task(), **FEW)).aggregate, 1e-9)


@pytest.mark.parametrize("sizes", [[1, 26], [9, 9, 9], [27], [3, 1, 5, 2, 7, 4, 5]])
def test_who_holds_which_row_does_not_matter(sizes: list[int]) -> None:
    x, y = joined(federation.shards())
    order = torch.randperm(sum(ROWS), generator=torch.Generator().manual_seed(0))
    other = [Shard(x[rows], y[rows], torch.ones(len(rows), dtype=torch.bool)) for rows in order.split(sizes)]
    task = federation.task()
    one = federation.run(fedkfac(task, **FEW, selection="loss"), rounds=3)
    two = federation.run(fedkfac(task, **FEW, selection="loss"), other, rounds=3)
    assert_close(one.aggregate, two.aggregate, 1e-10)
    assert [extra["choice"] for extra in one.extras] == [extra["choice"] for extra in two.extras]


def line(inputs: int) -> tuple[Task, list[Shard], dict[str, torch.Tensor]]:
    """A linear map under the squared loss, rows, and the weights of least squares."""
    rng = philox("line", 1)
    x, y = (torch.from_numpy(rng.normal(size=(sum(ROWS), size))) for size in (inputs, OUTPUTS))
    real = torch.ones(sum(ROWS), dtype=torch.bool)
    parts = zip(*(part.split(list(ROWS)) for part in (x, y, real)), strict=True)
    best = torch.linalg.lstsq(torch.cat([x, torch.ones_like(x[:, :1])], 1), y).solution.T
    model = torch.nn.Linear(inputs, OUTPUTS).double()
    return Task(model, losses.squared), [Shard(*part) for part in parts], {"weight": best[:, :-1], "bias": best[:, -1]}


@pytest.mark.parametrize(
    ("inputs", "dampings"),
    [
        (INPUTS, (1e-24,)),  # the one direction is Newton's
        (1, (0.5, 20.0)),  # two span all functions of a matrix with two eigenvalues, its inverse among them
    ],
)
def test_a_linear_map_takes_newtons_step_where_it_is_in_the_span(inputs: int, dampings: tuple[float, ...]) -> None:
    task, data, best = line(inputs)
    options: dict[str, Any] = {
        "dampings": dampings,
        "ridges": (1e-14,),
        "scales": (1.0,),
        "momentum": False,
        "weight_decay": 0.0,
    }
    assert_close(federation.run(fedkfac(task, **options), data, rounds=1).aggregate, best, 0.5)
    found = federation.run(fedkfac(task, **options, selection="loss"), data, rounds=1)
    assert_close(found.aggregate, best, 1e-9)


def test_bytes() -> None:
    """Once up: A of the first layer and rows. Each round down: w, D, c; up: g, A, B, B, rows; Q, rows; losses, rows."""

    def triangle(size: int) -> int:
        return size * (size + 1) // 2

    size = INPUTS * HIDDEN + HIDDEN + HIDDEN * OUTPUTS + OUTPUTS
    first = triangle(INPUTS + 1) + 1
    moments = size + triangle(HIDDEN + 1) + triangle(HIDDEN) + triangle(OUTPUTS) + 1
    up, down = moments + (3 * 3 + 1) + (2 * 4 + 1), size + 3 * size + 4 * 3
    for rounds in (1, 2):
        ledger = federation.run(fedkfac(federation.task(), **FEW), rounds=rounds).ledger
        sent = dict.fromkeys(range(K), (first + rounds * up) * 8)
        assert dict(ledger.sent) == {SERVER: rounds * K * down * 8} | sent
    half = federation.run(fedkfac(federation.task(), **FEW, participation=0.5), rounds=1, wire=HALF()).ledger
    clients = philox("cohort", 1).choice(K, 3, replace=False).tolist()
    assert half.sent[SERVER] == 3 * (8 * (size + 4 * 3) + 2 * 3 * size)
    assert {i: half.sent[i] for i in range(K)} == {i: (first + (i in clients) * up) * 8 for i in range(K)}


def test_local_epochs_cost_an_exchange_and_a_direction() -> None:
    """Down: w once more, u among D, and one more c; up: the move and its rows, and one more row and column of Q."""
    size = INPUTS * HIDDEN + HIDDEN + HIDDEN * OUTPUTS + OUTPUTS
    plain = federation.run(fedkfac(federation.task(), **FEW), rounds=2).ledger
    found = federation.run(fedkfac(federation.task(), **FEW, **LOCAL), rounds=2).ledger
    more = {i: found.sent[i] - plain.sent[i] for i in (SERVER, *range(K))}
    assert more == {SERVER: 2 * K * (2 * size + 4) * 8} | dict.fromkeys(range(K), 2 * (size + 1 + 4**2 - 3**2) * 8)


@pytest.mark.parametrize("memory", federation.BUDGETS)
def test_local_epochs_on_both_engines(memory: int) -> None:
    expected = federation.run(fedkfac(federation.task(), **FEW, **LOCAL)).aggregate
    engine = federation.engine("vectorized", memory=memory)
    assert_close(federation.run(fedkfac(federation.task(), **FEW, **LOCAL), engine=engine).aggregate, expected, 1e-9)


def test_a_move_that_is_not_finite_is_left_out_of_the_mean() -> None:
    data = federation.shards()
    data[-1] = data[-1]._replace(x=data[-1].x * torch.inf)
    method = fedkfac(federation.task(), **FEW, **LOCAL, selection="loss")
    found = federation.run(method, data, rounds=1)
    assert int(found.extras[0]["refused"]) == 1
    assert_close(found.aggregate, federation.run(method, data[:-1], rounds=1).aggregate, 1e-12)


def test_a_guard_changes_nothing_but_a_few_numbers_on_the_wire() -> None:
    """Once up: rows, and the rows that hide each in two kinds of sums; each round up: rows."""
    free = federation.run(fedkfac(federation.task(), **FEW), rounds=2)
    method = fedkfac(federation.task(), **{**FEW, "guard": True})
    found = federation.run(method, rounds=2)
    assert_same(found.aggregate, free.aggregate)
    assert {i: found.ledger.sent[i] - free.ledger.sent[i] for i in range(K)} == dict.fromkeys(range(K), (3 + 2) * 8)
    assert (method.exposure, fedkfac(federation.task(), **FEW).exposure) == ("aggregate", "kernel")


def test_balance_costs_a_few_counts() -> None:
    """Once up: counts of every class. Once down, as all take part: all counts, and weights. Up: the cohort's."""
    plain = federation.run(fedkfac(federation.task(), **FEW), rounds=2).ledger
    found = federation.run(fedkfac(federation.task(), **{**FEW, "balance": 2.0}), rounds=2).ledger
    more = {i: found.sent[i] - plain.sent[i] for i in (SERVER, *range(K))}
    assert more == {SERVER: K * 2 * OUTPUTS * 8} | dict.fromkeys(range(K), (1 + 2) * OUTPUTS * 8)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (ROWS, {"participation": 0.4}, "be at least 3 in a sum; got 2"),
        ((3, 9, 3), {}, "hold at most half of the rows of a sum each; got 9 of 15"),
        ((7, 6, 6), {}, "have at least 20 rows in a sum, twice a layer's inputs; got 19"),
        ((7, 7, 7), {"selection": "loss"}, "have at least 22 rows in a sum, twice a layer's inputs; got 21"),
        ((8, 8, 8), {}, "have at least 22 rows in a sum, twice a layer's inputs; got 21"),  # 3 are held out
    ],
)
def test_a_sum_that_would_tell_of_a_row_is_refused(rows: tuple[int, ...], options: Any, message: str) -> None:
    method = fedkfac(federation.task(), **{**FEW, "guard": True, **options})
    with pytest.raises(ValueError) as error:
        federation.run(method, federation.shards(rows), graph=None)
    assert str(error.value) == f"`nodes` must {message}. Raise participation or nodes, or take guard off."


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("selection", ["loss", "held-out"])
def test_a_message_that_is_not_finite_is_refused_and_counted(bad: float, selection: Any) -> None:
    data = federation.shards()
    data[-1] = data[-1]._replace(x=torch.full_like(data[-1].x, bad))
    method = fedkfac(federation.task(), **FEW, selection=selection)
    found = federation.run(method, data, rounds=2)
    assert [int(extra["refused"]) for extra in found.extras] == [1, 1]
    assert_close(found.aggregate, federation.run(method, data[:-1], rounds=2).aggregate, 1e-12)


def test_a_federation_without_a_finite_message_is_an_error() -> None:
    data = [part._replace(x=part.x * torch.nan) for part in federation.shards()]
    message = r"^`x_k` must have a finite message to sum; got none of 6 in round 0\. Use smaller steps, or .*\.$"
    with pytest.raises(ValueError, match=message):
        federation.run(fedkfac(federation.task(), **FEW), data)


def test_a_damping_that_is_too_small_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As rounding makes it: one direction is NaN, and the step is that of the other damping alone."""
    solve = span.directions
    expected = federation.run(fedkfac(federation.task(), **{**FEW, "dampings": (2.0,)}))

    def failing(total: Any, a: Any, dampings: Sequence[float]) -> dict[str, torch.Tensor]:
        found = solve(total, a, dampings)
        found["2.bias"][0] = torch.nan
        return found

    monkeypatch.setattr(span, "directions", failing)
    found = federation.run(fedkfac(federation.task(), **FEW))
    assert_close(found.aggregate, expected.aggregate, 1e-10)


def test_a_server_without_a_direction_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    solve = span.directions
    monkeypatch.setattr(span, "directions", lambda *given: trees.scale(solve(*given), torch.nan))
    with pytest.raises(ValueError, match=r"^`x_k` must have a finite message to sum; got none of 6 in round 1\. Use "):
        federation.run(fedkfac(federation.task(), **FEW))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"selection": "test"}, r"^`selection` must be 'held-out' or 'loss'; got 'test'\. Choose one of the two\.$"),
        ({"participation": 0.0}, r"^`participation` must be in \(0, 1\]; got 0.0\. Use 1 for all clients\.$"),
        ({"dampings": ()}, r"^`dampings` must be positive numbers; got \[\]\. Give at least one\.$"),
        ({"epochs": -1}, r"^`epochs` must not be negative; got -1\. Use 0 for no local steps\.$"),
        ({"batch": 0}, r"^`batch` must be at least 1; got 0\. Give a positive number of rows\.$"),
        ({"lr": 0.0}, r"^`lr` must be positive and finite; got 0\.0\. Give a learning rate such as 0\.1\.$"),
        ({"local_rounds": 2}, r"^`local_rounds` must be left out without `epochs`; got 2\. Give epochs too\.$"),
        ({"local_rounds": 0}, r"^`local_rounds` must be at least 1; got 0\. Leave it out for all rounds\.$"),
        ({"shrinkage": 1.0}, r"^`shrinkage` must be in \[0, 1\); got 1\.0\. Use 0 for none\.$"),
        ({"local_momentum": 1.0}, r"^`local_momentum` must be in \[0, 1\); got 1\.0\. Use 0\.9, or 0 for none\.$"),
        ({"balance": 0.5}, r"^`balance` must be at least 1; got 0.5\. Use 1 to weigh all rows alike\.$"),
    ],
)
def test_a_wrong_option_is_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fedkfac(federation.task(), **options)


def test_a_model_without_factors_is_an_error_unless_blocks_are_asked_for() -> None:
    class Bent(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bend = torch.nn.Parameter(torch.tensor([0.3, -0.4, 0.5][:OUTPUTS]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.sin(self.bend)

    model = torch.nn.Sequential(federation.network(), Bent()).double()
    with pytest.raises(RuntimeError, match=r"`model` must have Kronecker factors for every parameter; got none for "):
        federation.run(fedkfac(Task(model), **FEW))
    found = federation.run(fedkfac(Task(model), **FEW, other="exact"))
    assert not torch.equal(found.aggregate["1.bend"], Task(model).w_0["1.bend"])


def test_a_scalar_parameter_is_a_block() -> None:
    class Scaled(torch.nn.Linear):
        def __init__(self) -> None:
            super().__init__(INPUTS, OUTPUTS)
            self.size = torch.nn.Parameter(torch.tensor(0.7))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.size * super().forward(x)

    task = Task(Scaled().double())
    found = federation.run(fedkfac(task, **FEW, other="exact"))
    assert not any(torch.equal(part, task.w_0[name]) for name, part in found.aggregate.items())
