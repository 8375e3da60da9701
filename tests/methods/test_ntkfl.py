import math
from typing import Any

import numpy as np
import pytest
import torch

from fedtangent import trees
from fedtangent.catalog import names
from fedtangent.federation import SERVER, NodeError
from fedtangent.methods.ntkfl import ntkfl
from fedtangent.shard import Shard
from fedtangent.tangent_steps import explicit
from fedtangent.tangent_steps.step import Rows, Step
from fedtangent.training import losses
from fedtangent.training.task import Task
from tests import tiny_federation as federation
from tests.channels import literal_wire
from tests.methods import literal_kfac
from tests.methods import literal_tangent as literal
from tests.tiny_federation import BUDGETS, HIDDEN, INPUTS, OUTPUTS, ROWS, assert_close, assert_same, philox

K = len(ROWS)
FEW: dict[str, Any] = {"participation": 0.5, "times": (3, 10, 30), "lr": 2.0, "lr_decay": 0.3, "clock": "descent"}
OPTIONS: dict[str, dict[str, Any]] = {
    "trace": {},
    "full": {"kernel": "full"},
    "squared": {"clock": "flow", "loss": "squared"},
    "linearised": {"selection": "linearised"},
    "held-out": {"selection": "held-out"},
    "balanced": {"balance": 1.7},
    "balanced, squared": {"balance": 4.0, "clock": "flow", "loss": "squared"},
    "balanced, all at once": {"balance": 1.7, "subsample": 0.6, "sparsity": 0.3, "levels": 7, "shuffle": True},
    "one client": {"participation": 0.01},
    "subsampled": {"subsample": 0.4},
    "subsampled held-out": {"subsample": 0.4, "selection": "held-out"},
    "shuffled": {"shuffle": True},
    "sparse factors": {"exchange": "factors", "sparsity": 0.6},
    "coarse factors": {"exchange": "factors", "levels": 8, "kernel": "full"},
    "sparse and coarse factors": {"exchange": "factors", "sparsity": 0.6, "levels": 9, "selection": "linearised"},
    "sparse Jacobian": {"sparsity": 0.3},
    "coarse Jacobian": {"levels": 9, "kernel": "full"},
    "all at once": {"subsample": 0.6, "sparsity": 0.3, "levels": 7, "shuffle": True, "selection": "linearised"},
}


def played(options: dict[str, Any], *args: Any, **run: Any) -> federation.Run:
    """Some rounds; `sparsity` and `levels` are those of channels on the factors."""
    own, coded = dict(options), {}
    loss, share, levels = own.pop("loss", "cross_entropy"), own.pop("sparsity", None), own.pop("levels", None)
    if share is not None or levels is not None:
        chain = {
            "topk": {} if share is None else {"share": share},
            "quantize": {} if levels is None else {"levels": levels},
        }
        chain = {name: given for name, given in chain.items() if given}
        given = {key: value for part in chain.values() for key, value in part.items()}
        coded["wire"] = federation.wire(",".join(chain), messages=("factors",), **given)
    return federation.run(ntkfl(Task(federation.network(), losses.NAMES[loss]), **own), *args, **coded, **run)


def cohort(k: int, participation: float) -> list[int]:
    drawn = philox("cohort", k).choice(K, max(int(participation * K), 1), replace=False)
    return sorted(drawn.tolist())


def part(data: Shard, k: int, i: int, share: float) -> Shard:
    """What client i draws of its rows for round k."""
    if share == 1:
        return data
    count = min(max(math.floor(share * len(data.x) + 1e-9), 1), len(data.x))
    rows = sorted(philox("subsample", k, i).choice(len(data.x), count, replace=False).tolist())
    return Shard(*(column[rows] for column in data))


def received(w: dict[str, torch.Tensor], x: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
    """A client's Jacobian (n, C, P) as the server has it."""
    share, levels = options.get("sparsity", 1.0), options.get("levels")

    def decoded(leaf: torch.Tensor) -> torch.Tensor:
        return torch.tensor(
            literal_wire.decoded(leaf.flatten().tolist(), len(leaf), share, levels), dtype=torch.float64
        ).reshape(leaf.shape)

    if options.get("exchange") != "factors":
        parts = literal.jacobian(w, x).split([leaf.numel() for leaf in w.values()], 2)
        return torch.cat(
            [
                decoded(leaf.reshape(*leaf.shape[:2], *shape.shape)).flatten(2)
                for leaf, shape in zip(parts, w.values(), strict=True)
            ],
            2,
        )
    first, bias, last, _ = w.values()
    z = x @ first.T + bias
    inputs, gate, hidden = decoded(x), decoded((z > 0).double()), decoded(z.relu())
    d = last[None] * gate[:, None]
    ones = torch.eye(OUTPUTS).double().expand(len(x), -1, -1)
    layers = [torch.einsum("nco,ni->ncoi", d, inputs), d, torch.einsum("nco,ni->ncoi", ones, hidden), ones]
    return torch.cat([leaf.flatten(2) for leaf in layers], 2)


def transcript(rounds: int, loss: str, **options: Any) -> tuple[dict[str, torch.Tensor], list[int]]:
    """The server's weights after some rounds, and the times that it chose."""
    step = literal.Step(options["times"], options["lr"], options.get("kernel", "trace"), options["clock"], loss)
    selection, w, chosen = options.get("selection", "loss"), federation.network().state_dict(), []
    for k in range(1, rounds + 1):
        fit, held, share = [], [], options.get("subsample", 1.0)
        for i in cohort(k, options["participation"]):
            data = federation.shards()[i]
            order = np.arange(len(data.x))
            if selection == "held-out":
                order = philox("held-out", 0, i).permutation(len(data.x))
            tenth = min(max(len(data.x) // 10, 1), len(data.x) - 1)
            kept, out = (order[tenth:], order[:tenth]) if selection == "held-out" else (order, order)
            fit.append(part(Shard(*(column[kept] for column in data)), k, i, share))
            held.append(part(Shard(*(column[out] for column in data)), k, i, share))
        j = torch.cat([received(w, data.x, options) for data in fit])
        x, y, _ = (torch.cat(parts) for parts in zip(*fit, strict=True))
        now = step._replace(lr=step.lr * math.exp(-options["lr_decay"] * (k - 1)))
        everybody = torch.cat([data.y for data in federation.shards()])
        weight = literal_kfac.row_weights(everybody, y, options.get("balance", 1.0), OUTPUTS)
        tries, linear = literal.candidates(w, x, y, now, j, weight)
        if selection == "held-out":
            x, y, _ = (torch.cat(parts) for parts in zip(*held, strict=True))
        if selection == "linearised":
            value = [literal.value(f, y, loss) for f in linear]
        else:
            value = [literal.mean_loss(candidate, x, y, loss) for candidate in tries]
            if selection == "loss":
                value = [
                    sum(
                        rho * literal.mean_loss(candidate, row[None], label[None], loss)  # type: ignore[misc]
                        for rho, row, label in zip(weight, x, y, strict=True)
                    )
                    for candidate in tries
                ]
        best = int(torch.stack(value).argmin())
        w = tries[best]
        chosen.append(step.times[best])
    return w, chosen


@pytest.mark.few(7)
@pytest.mark.parametrize("name", OPTIONS)
def test_is_the_papers_algorithm(name: str) -> None:
    options = {**FEW, **OPTIONS[name]}
    loss = options.pop("loss", "cross_entropy")
    found = played({**options, "loss": loss}, rounds=3)
    w, chosen = transcript(3, loss, **options)
    assert [int(extra["time"]) for extra in found.extras] == chosen
    assert_close(found.aggregate, w, 1e-8)


def test_the_papers_message_is_billed() -> None:
    """Down: weights, and the candidates to be scored. Up: Jacobians, outputs, one-hot labels, and the scores."""
    ledger = federation.run(ntkfl(federation.task(), **FEW), rounds=1).ledger
    size, clients = sum(part.numel() for part in federation.task().w_0.values()), cohort(1, 0.5)
    assert ledger.sent[SERVER] == len(clients) * (1 + 3) * size * 8
    for i in range(K):
        up = ROWS[i] * OUTPUTS * (size + 2) * 8 + 2 * 3 * 8 + 8 if i in clients else 0
        assert ledger.sent[i] == up


@pytest.mark.parametrize("exchange", ["factors", "jacobian"])
def test_the_compressed_message_is_billed(exchange: str) -> None:
    """Every tensor by itself: three bits for each of two in five entries, two ends, and positions."""
    options = {**FEW, "exchange": exchange, "sparsity": 0.4, "levels": 5}
    found = played(options, rounds=1)
    for i in cohort(1, 0.5):
        n, up = ROWS[i], 2 * 3 * 8 + 8
        if exchange == "factors":
            tensors = [n * INPUTS, n * HIDDEN, n * HIDDEN]  # inputs, gates, hidden values
            up += n * OUTPUTS * 8 + n * 8
        else:
            tensors = [n * OUTPUTS * leaf.numel() for leaf in federation.task().w_0.values()]
            up += 2 * n * OUTPUTS * 8
        for entries in tensors:
            sent = max(math.floor(0.4 * entries + 1e-9), 1)
            index = math.ceil(math.log2(entries))
            up += math.ceil(3 * sent / 8) + 2 * 8 + min(math.ceil(entries / 8), math.ceil(sent * index / 8))
        assert found.ledger.sent[i] == up


def test_a_subsampled_message_is_billed_by_its_rows() -> None:
    ledger = federation.run(ntkfl(federation.task(), **FEW, subsample=0.4), rounds=1).ledger
    for i in cohort(1, 0.5):
        rows = max(math.floor(0.4 * ROWS[i] + 1e-9), 1)
        assert ledger.sent[i] == rows * OUTPUTS * (federation.task().size + 2) * 8 + 2 * 3 * 8 + 8


@pytest.mark.parametrize("name", names("engines"))
@pytest.mark.parametrize("exchange", ["factors", "jacobian"])
def test_compressed_rounds_agree_on_every_engine(name: str, exchange: str) -> None:
    """Padded rows of a chunk neither are sent nor take anybody's place among the largest."""
    options = {**FEW, "exchange": exchange, "sparsity": 0.4, "levels": 9, "subsample": 0.7, "shuffle": True}
    expected = played(options)
    for budget in BUDGETS:
        found = played(options, engine=federation.engine(name, budget))
        assert_close(found.aggregate, expected.aggregate, 1e-9)
        assert (found.ledger.sent, found.ledger.received) == (expected.ledger.sent, expected.ledger.received)


def test_the_shuffling_server_mixes_the_rows_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Rows] = []
    candidates = Step.candidates

    def spy(step: Step, task: Task, w: Any, rows: Rows, lr: float) -> Any:
        seen.append(rows)
        return candidates(step, task, w, rows, lr)

    monkeypatch.setattr(Step, "candidates", spy)
    plain = federation.run(ntkfl(federation.task(), **FEW), rounds=3)
    shuffled = federation.run(ntkfl(federation.task(), **FEW, shuffle=True), rounds=3)
    assert_close(shuffled.aggregate, plain.aggregate, 1e-9)
    assert (shuffled.ledger.sent, shuffled.ledger.received) == (plain.ledger.sent, plain.ledger.received)
    for k, (before, after) in enumerate(zip(seen[:3], seen[3:], strict=True), start=1):
        order = philox("shuffle", k).permutation(len(before.f))
        assert sorted(order.tolist()) != order.tolist()
        assert_close(after, trees.map(lambda leaf, order=order: leaf[order], before), 1e-9)


def test_what_is_off_changes_no_bit() -> None:
    off = {"subsample": 1.0, "shuffle": False}
    found, plain = (federation.run(ntkfl(federation.task(), **FEW, **more)) for more in (off, {}))
    assert_same(found.aggregate, plain.aggregate)


def test_a_compressed_jacobian_that_is_too_large_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explicit, "LARGEST", 3000)
    with pytest.raises(
        NodeError, match=r"node \d failed in 'written_out' of a method, round 1: ValueError: `exchange` must be 'fac"
    ):
        played({**FEW, "participation": 1.0, "levels": 4})
    played({**FEW, "participation": 1.0, "levels": 4, "exchange": "factors"})


def test_what_is_written_out_is_planned_for() -> None:
    method = ntkfl(federation.task())
    plain, written = method.node_bytes, method.coded_bytes
    assert plain is not None
    assert written is not None
    assert written(5, 0) - plain(5, 0) == 8 * 8 * 5 * OUTPUTS * federation.task().size
    assert written(10**9, 0) - plain(10**9, 0) == 8 * 8 * explicit.LARGEST


def test_a_server_whose_candidates_all_blow_up_keeps_its_weights() -> None:
    data = [part._replace(x=part.x * 1e200) for part in federation.shards()]
    found = federation.run(ntkfl(federation.task(), **FEW), data, rounds=1)
    assert int(found.extras[0]["time"]) == 0
    assert_close(found.aggregate, federation.task().w_0)


@pytest.mark.parametrize("participation", [0.0, 1.1, -1.0])
def test_a_wrong_participation_is_an_error(participation: float) -> None:
    with pytest.raises(ValueError, match=rf"^`participation` must be in \(0, 1\]; got {participation}. Use 1 for all"):
        ntkfl(federation.task(), participation=participation)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subsample": 0.0}, r"^`subsample` must be in \(0, 1\]; got 0.0. Use 1 for all rows\.$"),
        ({"subsample": 1.5}, r"^`subsample` must be in \(0, 1\]; got 1.5. Use 1 for all rows\.$"),
        ({"exchange": "rows"}, r"^`exchange` must be 'jacobian' or 'factors'; got 'rows'. Choose one of the two\.$"),
    ],
)
def test_a_wrong_option_is_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ntkfl(federation.task(), **options)
