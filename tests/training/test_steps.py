"""How local steps are taken: schedules are torch's, and a run is a literal loop of torch.optim over its clients."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler as schedulers

import fedtangent
from fedtangent.federation import generator
from fedtangent.training import solvers
from fedtangent.training.steps import BACKOFF, GROWTH, INTERVAL, SCALE, Rates, Scaler, Steps, clipped
from tests import tiny_federation as federation
from tests.experiments import tiny


def by_torch(rounds: int, kind: Any, warm_up: int, **options: Any) -> list[float]:
    """The learning rates of torch's schedulers, stepped once a round, where the optimiser's own is 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = kind(optimizer, **options)
    if warm_up:
        rising = schedulers.LinearLR(optimizer, 1 / (warm_up + 1), 1.0, warm_up)
        schedule = schedulers.SequentialLR(optimizer, [rising, schedule], [warm_up])
    found = []
    for _ in range(rounds):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        schedule.step()
    return found


def factors(schedule: Any, rounds: int, **options: Any) -> list[float]:
    """Ours."""
    found: list[float] = Rates(schedule, **options).at(torch.arange(1, rounds + 1)).tolist()
    return found


@pytest.mark.filterwarnings("ignore:The epoch parameter")  # of SequentialLR's own call
@pytest.mark.parametrize("warm_up", [0, 1, 4])
def test_schedules_are_torchs(warm_up: int) -> None:
    cosine = by_torch(11, schedulers.CosineAnnealingLR, warm_up, T_max=11 - warm_up, eta_min=0.05)
    assert factors("cosine", 11, warm_up=warm_up, over=11, least=0.05) == pytest.approx(cosine, rel=1e-12)
    step = by_torch(11, schedulers.StepLR, warm_up, step_size=3, gamma=0.4)
    assert factors("step", 11, warm_up=warm_up, every=3, gamma=0.4) == pytest.approx(step, rel=1e-12)
    constant = by_torch(11, schedulers.ConstantLR, warm_up, factor=1.0)
    assert factors("constant", 11, warm_up=warm_up) == pytest.approx(constant)


def test_schedules_by_hand() -> None:
    assert factors("constant", 4, warm_up=3) == [0.25, 0.5, 0.75, 1.0]
    assert factors("cosine", 6, over=4) == pytest.approx([1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5, 0, 0])  # stays there
    assert factors("step", 5, every=2, gamma=0.5) == [1, 1, 0.5, 0.5, 0.25]


def test_clipped_is_torchs() -> None:
    task = federation.task()
    for size in (1e-3, 1.0, 1e3):
        g = {
            name: size * torch.cos(torch.arange(w.numel(), dtype=w.dtype)).reshape(w.shape)
            for name, w in task.w_0.items()
        }
        theirs = [nn.Parameter(torch.zeros_like(leaf)) for leaf in g.values()]
        for p, leaf in zip(theirs, g.values(), strict=True):
            p.grad = leaf.clone()
        nn.utils.clip_grad_norm_(theirs, 0.7)
        for found, p in zip(clipped(g, 0.7).values(), theirs, strict=True):
            torch.testing.assert_close(found, p.grad, rtol=1e-12, atol=0)


ASKED = {"lr_schedule": "cosine", "lr_warm_up": 1, "clip": 0.9, "local_weight_decay": 0.07}
ROUNDS, LR, MU = 4, 0.3, 0.6


def averaged(method: str, optimizer: str = "sgd", momentum: float = 0.0) -> dict[str, Tensor]:
    """FedAvg, FedProx or SCAFFOLD of PyTorch's own optimiser, schedule, clipping and weight decay, typed out."""
    data, index = tiny.data(), tiny.partition().index
    model = tiny.network().double()
    w = {name: p.detach().clone() for name, p in model.named_parameters()}
    c = {name: torch.zeros_like(p) for name, p in w.items()}
    c_k = [deepcopy(c) for _ in index]
    rates = by_torch(ROUNDS, schedulers.CosineAnnealingLR, 1, T_max=ROUNDS - 1)
    for k in range(1, ROUNDS + 1):
        found, controls = [], []
        for node, rows in enumerate(index):
            x, y = data.x_train[rows].double(), data.y_train[rows]
            here = deepcopy(model)
            here.load_state_dict(w)
            settings: dict[str, Any] = {"lr": LR * rates[k - 1], "weight_decay": 0.07}
            if optimizer == "sgd":
                own: torch.optim.Optimizer = torch.optim.SGD(here.parameters(), momentum=momentum, **settings)
            else:
                own = torch.optim.Adam(here.parameters(), **settings)
            drawn = solvers.shuffled(2, 4)(generator(0, k, "batches", node), federation.shards([len(rows)])[0])
            for step in drawn.rows.tolist():
                at = [row - 1 for row in step if row]
                own.zero_grad()
                nn.functional.cross_entropy(here(x[at]), y[at]).backward()
                nn.utils.clip_grad_norm_(here.parameters(), 0.9)
                for name, p in here.named_parameters():
                    assert p.grad is not None
                    if method == "fedprox":
                        p.grad += MU * (p.detach() - w[name])
                    if method == "scaffold":
                        p.grad += c[name] - c_k[node][name]
                own.step()
            z = {name: p.detach() for name, p in here.named_parameters()}
            found.append(z)
            far = len(drawn.rows) * LR * rates[k - 1]
            controls.append({name: c_k[node][name] - c[name] + (w[name] - z[name]) / far for name in w})
        share = np.array([len(rows) for rows in index]) / sum(map(len, index))
        share = np.full(len(index), 1 / len(index)) if method == "scaffold" else share
        w = {name: sum(s * z[name] for s, z in zip(share, found, strict=True)) for name in w}
        c = {name: sum(e[name] for e in controls) / len(index) for name in c}
        c_k = controls
    return w


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "fedavg": ("fedavg", {}, {}),
    "momentum": ("fedavg", {"momentum": 0.8}, {"momentum": 0.8}),
    "adam": ("fedavg", {"optimizer": "adam"}, {"optimizer": "adam"}),
    "fedprox": ("fedprox", {"mu": MU}, {}),
    "scaffold": ("scaffold", {}, {}),
}


@pytest.mark.few(4)
@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
@pytest.mark.parametrize("case", CASES)
def test_a_run_is_the_literal_loop(case: str, engine: str) -> None:
    method, given, literal = CASES[case]
    change = {"participation": 1.0, "epochs": 2, "batch": 4, "lr": LR, "model": tiny.network(), "dtype": "float64"}
    settings = tiny.settings(method, **(change | given | ASKED), rounds=ROUNDS, engine=engine)
    federation.assert_close(fedtangent.run(**settings).weights, averaged(method, **literal))


@pytest.mark.parametrize(("amp", "size"), [("bfloat16", 1.0), ("float16", 1.0), ("float16", 40.0)])
def test_half_precision_is_the_literal_loops(amp: str, size: float) -> None:
    """torch.autocast and torch.amp.GradScaler, which a CPU has too; with large inputs steps overflow."""
    task = federation.task().to("cpu", torch.float32)
    here = federation.trees.to(federation.shards([7])[0], dtype=torch.float32)
    here = here._replace(x=here.x * size)
    drawn = solvers.shuffled(4, 4)(np.random.default_rng(2), here)
    model = federation.network().float()
    own, scaler = torch.optim.SGD(model.parameters(), lr=0.3 / size**2, momentum=0.5), torch.amp.GradScaler("cpu")
    passed = 0
    for step in drawn.rows.tolist():
        at = [row - 1 for row in step if row]
        own.zero_grad()
        with torch.autocast("cpu", getattr(torch, amp)):
            loss = nn.functional.cross_entropy(model(here.x[at]), here.y[at])
        if amp == "bfloat16":
            loss.backward()
            own.step()
            continue
        scaler.scale(loss).backward()
        scaler.step(own)
        before = scaler.get_scale()
        scaler.update()
        passed += scaler.get_scale() < before
    assert (passed > 0) == (size > 1), passed
    options = {"lr": 0.3 / size**2, "momentum": 0.5}
    found = solvers.sgd(_with(task, amp=amp), **options)(task.w_0, here, drawn)
    exact = solvers.sgd(task, **options)(task.w_0, here, drawn)
    for name, p in model.named_parameters():
        assert found[name].dtype == torch.float32
        off, rounding = (found[name] - p).abs().max(), (exact[name] - p).abs().max()
        assert off <= 0.02 * rounding + 1e-6, (name, off, rounding)
        assert rounding > 1e-5


def _with(task: Any, **steps: Any) -> Any:
    from dataclasses import replace

    return replace(task, steps=Steps(**steps))


def test_the_scale_of_a_float16_loss_is_torchs() -> None:
    """GradScaler's own updates: halved after infinity, doubled after so many good steps in a row."""
    scaler = Scaler.start(torch.device("cpu"))
    assert float(scaler.scale) == SCALE
    halved = scaler.after(torch.tensor(True)).after(torch.tensor(False))
    assert (float(halved.scale), int(halved.good)) == (SCALE * BACKOFF, 0)
    almost = halved._replace(good=torch.tensor(INTERVAL - 1))
    grown = almost.after(torch.tensor(True))
    assert (float(grown.scale), int(grown.good)) == (SCALE * BACKOFF * GROWTH, 0)


def test_batches_must_know_their_round() -> None:
    task = _with(federation.task(), rates=Rates(warm_up=1))
    here = federation.shards([7])[0]
    drawn = solvers.shuffled(1, 4)
    with pytest.raises(
        ValueError, match=r"^`batches` must hold the round that they are of, by which the learning rate"
    ):
        solvers.sgd(task, lr=0.1)(task.w_0, here, drawn(np.random.default_rng(0), here))
    half, whole = (
        solvers.sgd(task, lr=0.1)(task.w_0, here, drawn.of_round(k)(np.random.default_rng(0), here)) for k in (1, 2)
    )
    plain = solvers.sgd(federation.task(), lr=0.05)(task.w_0, here, drawn(np.random.default_rng(0), here))
    federation.assert_close(half, plain)
    assert float((whole["0.weight"] - half["0.weight"]).abs().max()) > 1e-3
