import math
from typing import Any

import numpy as np
import pytest
import torch

from fedtangent.experiments.run import step
from fedtangent.experiments.setup import setup
from fedtangent.methods.dfedavg import dfedavg
from fedtangent.methods.dispfl import dispfl, erk
from tests import tiny_federation as federation
from tests.experiments import tiny
from tests.methods.literal_gossip import K, batches, gossip, gradient
from tests.methods.literal_server import ENGINES, Weights, each, weights_0
from tests.tiny_federation import GRAPH, HIDDEN, INPUTS, OUTPUTS, ROWS, assert_close, assert_same, philox

SIZES = {"0.weight": INPUTS * HIDDEN, "2.weight": HIDDEN * OUTPUTS}
LOCAL: dict[str, Any] = {"epochs": 2, "batch": 3, "lr": 0.2, "momentum": 0.5, "weight_decay": 0.01}
OPTIONS: list[dict[str, Any]] = [
    {"density": 0.4, "anneal": 0.6, "horizon": 4} | LOCAL,
    {"density": 0.6, "anneal": 1.0, "horizon": 9, "regrow": "random", "own_masks": True} | LOCAL,
]


def ones(w: Weights, mask: Weights) -> Weights:
    """Masks of all parameters, vectors whole, as numbers."""
    return {name: mask[name].double() if name in mask else torch.ones_like(part) for name, part in w.items()}


def trained(w: Weights, mask: Weights, t: int, node: int, local: dict[str, Any]) -> Weights:
    """SGD off its mask set to 0 after every step."""
    v = each(torch.zeros_like, w)
    for rows in batches(t, node, local["epochs"], local["batch"]):
        g = gradient(w, node, rows)
        v = each(lambda v, g, w: local["momentum"] * v + g + local["weight_decay"] * w, v, g, w)
        w = each(lambda w, v, m: (w - local["lr"] * v) * m, w, v, mask)
    return w


def transcript(
    rounds: int,
    density: float,
    anneal: float,
    horizon: int,
    regrow: str = "gradient",
    own_masks: bool = False,
    **local: Any,
) -> tuple[list[Weights], list[Weights]]:
    """Algorithm 1 of Dai et al. 2022 as its authors' code runs it: weights, and the masks of the next round."""
    counts = erk(weights_0(), density)

    def first(rng: np.random.Generator) -> Weights:
        mask = {}
        for name, size in SIZES.items():
            flat = torch.zeros(size).double()
            flat[torch.from_numpy(rng.permutation(size)[: counts[name]])] = 1
            mask[name] = flat.reshape(weights_0()[name].shape)
        return mask

    shared = [ones(weights_0(), first(philox("masks", 0, i if own_masks else -1))) for i in range(K)]
    nxt, w = list(shared), [each(torch.mul, weights_0(), mask) for mask in shared]
    for t in range(1, rounds + 1):
        start = []
        for i in range(K):
            group = [*GRAPH.neighbours[i], i]
            total = {name: sum(w[j][name] for j in group) for name in w[i]}
            count = {name: sum(shared[j][name] for j in group) for name in w[i]}
            mean = each(lambda a, b: torch.where(b > 0, a / b.clamp(min=1), 0.0), total, count)  # type: ignore[arg-type]
            start.append(each(torch.mul, mean, nxt[i]))
        shared = list(nxt)
        w = [trained(start[i], shared[i], t, i, local) for i in range(K)]
        share = anneal / 2 * (1 + math.cos(math.pi * min(t - 1, horizon) / horizon))
        for i in range(K):
            rng = philox("regrow", t, i)
            score: Any = None
            if regrow == "gradient":
                score = gradient(w[i], i, torch.from_numpy(rng.permutation(ROWS[i])[: local["batch"]]))
            mask = {}
            for name in SIZES:
                drop = math.ceil(share * counts[name])
                score_l = (
                    score[name].abs().flatten() if score is not None else torch.from_numpy(rng.random(SIZES[name]))
                )
                flat = shared[i][name].flatten().clone()
                active = sorted(flat.nonzero()[:, 0].tolist(), key=lambda p: float(w[i][name].flatten()[p].abs()))
                flat[active[:drop]] = 0
                absent = sorted((flat == 0).nonzero()[:, 0].tolist(), key=lambda p: -float(score_l[p]))
                flat[absent[:drop]] = 1
                mask[name] = flat.reshape(shared[i][name].shape)
            nxt[i] = ones(w[i], mask)
    return w, nxt


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", OPTIONS)
def test_is_the_papers_algorithm(options: dict[str, Any], engine: str) -> None:
    found = federation.run(dispfl(federation.task(), **options), rounds=4, engine=federation.engine(engine, 3))
    w, masks = transcript(4, **options)
    assert_close(found.state.w_k.values, w, 1e-10)
    counts = erk(weights_0(), options["density"])
    for mask, expected in zip(found.state.n_k.values, masks, strict=True):
        assert_same({name: part.double() for name, part in mask.items()}, {name: expected[name] for name in SIZES})
        assert {name: int(part.sum()) for name, part in mask.items()} == counts
    assert len({str(mask) for mask in found.state.n_k.values}) > 1
    size = 8 * (sum(counts.values()) + HIDDEN + OUTPUTS) + math.ceil(sum(SIZES.values()) / 8)
    assert {node: found.ledger.sent[node] for node in range(K)} == {i: 4 * size * GRAPH.degree(i) for i in range(K)}
    held = [{name: part.double() for name, part in mask.items()} for mask in found.state.m_k.values]
    whole = [ones(w[0], mask) for mask in held]
    mean = {
        name: sum(part[name] for part in w) / torch.stack([mask[name] for mask in whole]).sum(0).clamp(min=1e-9)  # type: ignore[union-attr]
        for name in w[0]
    }
    assert_close(found.aggregate, mean, 1e-9)


def test_with_all_weights_it_averages_before_where_dfedavg_averages_after() -> None:
    local: dict[str, Any] = {"epochs": 2, "batch": 3, "lr": 0.2, "momentum": 0.5}
    made = dispfl(federation.task(), density=1.0, weight_decay=0.0, **local)
    found = federation.run(made, rounds=3)
    expected = federation.run(dfedavg(federation.task(), **local), rounds=3).state.w_k.values
    assert_close(gossip(found.state.w_k.values), expected, 1e-11)


def test_masks_stay_from_the_horizon_on_and_without_annealing() -> None:
    for options in ({"anneal": 0.0}, {"horizon": 1}):
        states = [federation.run(dispfl(federation.task(), **options), rounds=k).state for k in (2, 3)]  # type: ignore[arg-type]
        assert_same(states[0].n_k.values, states[1].n_k.values)
    moving = [federation.run(dispfl(federation.task()), rounds=k).state.n_k.values for k in (2, 3)]
    assert str(moving[0]) != str(moving[1])


def test_erk_by_hand() -> None:
    """Sizes 4 x 6 and 2 x 3 in proportion to 10 and 5: a half of 30 is 10 and 5; nine tenths fill the smaller one."""
    w = {"a": torch.zeros(4, 6), "b": torch.zeros(2, 3), "bias": torch.zeros(7)}
    assert erk(w, 0.5) == {"a": 10, "b": 5}
    assert erk(w, 0.9) == {"a": 21, "b": 6}
    assert erk(w, 1.0) == {"a": 24, "b": 6}
    assert erk(w, 0.1) == {"a": 2, "b": 1}


def test_nodes_are_measured_as_they_are() -> None:
    built = setup(tiny.tiny("dispfl", rounds=1))
    state, entry, *_ = step(built, built.fleet(1, built.wire()), *begun(built), 1)
    models = state.w_k.values
    right = [float((built.task.predict(w, built.x_test).argmax(1) == built.y_test).double().mean()) for w in models]
    assert entry["mean_node_accuracy"] == pytest.approx(sum(right) / len(right))


def begun(built: Any) -> tuple[Any, Any]:
    fleet = built.fleet(0, built.wire())
    data_k = fleet.each(list(built.data))
    return built.method.init(fleet, data_k), data_k


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": 0.0}, "`density` must be in (0, 1]; got 0.0. Use 0.5, or 1 for all weights."),
        (
            {"density": 0.01},
            "`density` must leave every matrix a weight; got 0.01, and none of 90 in '0.weight'. Use a larger one.",
        ),
        ({"anneal": 2}, "`anneal` must be in [0, 1]; got 2. Use 0.5, or 0 for masks that stay."),
        ({"horizon": 0}, "`horizon` must be at least 1; got 0. Give a number of rounds."),
        ({"regrow": "all"}, "`regrow` must be 'gradient' or 'random'; got 'all'. Choose one of the two."),
    ],
)
def test_wrong_values_are_one_clear_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        dispfl(federation.task(), **options)
    assert str(caught.value) == message
