import math
from typing import Any

import pytest
import torch

from fedtangent import losses
from fedtangent.ledger import SERVER
from fedtangent.methods.ntkfl import ntkfl
from fedtangent.shard import Shard
from fedtangent.task import Task
from tests import federation
from tests.federation import OUTPUTS, ROWS, assert_close, philox
from tests.methods import literal_tangent as literal

K = len(ROWS)
FEW: dict[str, Any] = {"participation": 0.5, "times": (3, 10, 30), "lr": 2.0, "decay": 0.3, "clock": "descent"}
OPTIONS: dict[str, dict[str, Any]] = {
    "trace": {},
    "full": {"kernel": "full"},
    "squared": {"clock": "flow", "loss": "squared"},
    "linearised": {"selection": "linearised"},
    "held-out": {"selection": "held-out"},
    "one client": {"participation": 0.01},
}


def cohort(k: int, participation: float) -> list[int]:
    drawn = philox("cohort", k).choice(K, max(int(participation * K), 1), replace=False)
    return sorted(drawn.tolist())


def transcript(rounds: int, loss: str, **options: Any) -> tuple[dict[str, torch.Tensor], list[int]]:
    """The server's weights after some rounds, and the times that it chose."""
    step = literal.Step(options["times"], options["lr"], options.get("kernel", "trace"), options["clock"], loss)
    selection, w, chosen = options.get("selection", "loss"), federation.network().state_dict(), []
    for k in range(1, rounds + 1):
        fit, held = [], []
        for i in cohort(k, options["participation"]):
            data, kept = federation.shards()[i], slice(None)
            order = philox("held-out", 0, i).permutation(len(data.x))
            tenth = min(max(len(data.x) // 10, 1), len(data.x) - 1)
            kept, out = (order[tenth:], order[:tenth]) if selection == "held-out" else (order, order)
            fit.append(Shard(*(part[kept] for part in data)))
            held.append(Shard(*(part[out] for part in data)))
        x, y, _ = (torch.cat(parts) for parts in zip(*fit, strict=True))
        now = step._replace(lr=step.lr * math.exp(-options["decay"] * (k - 1)))
        tries, linear = literal.candidates(w, x, y, now)
        if selection == "held-out":
            x, y, _ = (torch.cat(parts) for parts in zip(*held, strict=True))
        if selection == "linearised":
            value = [literal.value(f, y, loss) for f in linear]
        else:
            value = [literal.mean_loss(candidate, x, y, loss) for candidate in tries]
        best = int(torch.stack(value).argmin())
        w = tries[best]
        chosen.append(step.times[best])
    return w, chosen


@pytest.mark.parametrize("name", OPTIONS)
def test_is_the_papers_algorithm(name: str) -> None:
    options = {**FEW, **OPTIONS[name]}
    loss = options.pop("loss", "cross_entropy")
    found = federation.run(ntkfl(Task(federation.network(), losses.NAMES[loss]), **options), rounds=3)
    w, chosen = transcript(3, loss, **options)
    assert [int(extra["time"]) for extra in found.extras] == chosen
    assert_close(found.aggregate, w, 1e-8)


def test_the_papers_message_is_billed() -> None:
    """Down: weights, and the candidates to be scored. Up: Jacobians, outputs, one-hot labels, and the scores."""
    ledger = federation.run(ntkfl(federation.task(), **FEW), rounds=1).ledger
    size, clients = sum(part.numel() for part in federation.task().w_0.values()), cohort(1, 0.5)
    assert ledger.sent[SERVER] == len(clients) * (1 + 3) * size * 8
    for i in range(K):
        up = ROWS[i] * OUTPUTS * (size + 2) * 8 + 3 * 8 + 8 if i in clients else 0
        assert ledger.sent[i] == up


def test_a_server_whose_candidates_all_blow_up_keeps_its_weights() -> None:
    data = [part._replace(x=part.x * 1e200) for part in federation.shards()]
    found = federation.run(ntkfl(federation.task(), **FEW), data, rounds=1)
    assert int(found.extras[0]["time"]) == 0
    assert_close(found.aggregate, federation.task().w_0)


@pytest.mark.parametrize("participation", [0.0, 1.1, -1.0])
def test_a_wrong_participation_is_an_error(participation: float) -> None:
    with pytest.raises(ValueError, match=rf"^`participation` must be in \(0, 1\]; got {participation}. Use 1 for all"):
        ntkfl(federation.task(), participation=participation)
