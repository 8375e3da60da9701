from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.federation import SERVER, Graph, Wire
from fedtangent.methods.dfedkfac import dfedkfac
from fedtangent.methods.fedkfac import fedkfac
from fedtangent.shard import Shard
from fedtangent.tangent_steps import span
from fedtangent.training import losses
from fedtangent.training.task import Task
from tests import tiny_federation as federation
from tests.methods import literal_kfac as literal
from tests.methods.literal_tangent import Weights, average
from tests.often import often
from tests.tangents.networks import Example, everything
from tests.tiny_federation import GRAPH, HIDDEN, INPUTS, LONELY, OUTPUTS, ROWS, assert_close, assert_same, philox

K = len(ROWS)
NEAR = [[i, *GRAPH.neighbours[i]] for i in range(len(ROWS))]
FEW: dict[str, Any] = {
    "dampings": (0.03, 2.0),
    "ridges": (1e-3, 0.3),
    "scales": (0.4, 1.0),
    "weight_decay": 0.02,
}
LOCAL = {"epochs": 2, "batch": 3, "lr": 0.1, "local_momentum": 0.6}
HALF = partial(federation.wire, "bfloat16", messages=("directions",))
OPTIONS: dict[str, dict[str, Any]] = {
    "every round": {},
    "shared inputs": {"inputs": "shared"},
    "no momentum": {"momentum": False},
    "single try": {"ridges": (0.1,), "scales": (0.7,)},
    "squared": {"loss": "squared"},
    "bfloat16": {"wire": "bfloat16"},
    "local epochs": {**LOCAL},
    "no averaging": {"averaging": False},
    "local epochs, no averaging": {**LOCAL, "averaging": False},
    "two hops": {"hops": 2},
    "local epochs at first, shrinkage": {**LOCAL, "local_rounds": 2, "shrinkage": 0.3},
    "three hops, local epochs, bfloat16": {"hops": 3, **LOCAL, "wire": "bfloat16", "inputs": "shared"},
    "local epochs, no momentum": {**LOCAL, "momentum": False, "inputs": "shared", "loss": "squared"},
}


def transcript(
    rounds: int,
    loss: str,
    inputs: str = "neighbourhood",
    epochs: int = 0,
    averaging: bool = True,
    hops: int = 1,
    local_rounds: int = 9,
    shrinkage: float = 0.0,
    **given: Any,
) -> tuple[list[Weights], list[list[int]]]:
    """Every node's weights after some rounds, and the candidates that were chosen."""
    local = {name: given.pop(name) for name in ("batch", "lr", "local_momentum") if epochs}
    data, step, chosen = federation.shards(), literal.Step(**given, loss=loss), []
    w_k = [federation.network().state_dict() for _ in ROWS]
    v_k = [literal.zeros(w) for w in w_k]
    first = [literal.first_inputs(part.x) for part in data]
    for k in range(1, rounds + 1):
        old_w, old_v, old_u = list(w_k), list(v_k), [literal.zeros(w) for w in w_k]
        w_k = old_w = [{name: (1 - shrinkage) * part for name, part in w.items()} for w in w_k]
        moved = epochs and k <= local_rounds
        if moved:
            batches = [philox("batches", k, i) for i in range(K)]
            old_w = [literal.local(w_k[i], data[i], batches[i], step, epochs, **local) for i in range(K)]
            old_u = [literal.subtract(new, old) for new, old in zip(old_w, w_k, strict=True)]
        chosen.append([])
        averaged = [near if averaging else [i] for i, near in enumerate(NEAR)]
        mean, last, u = ([average([of[j] for j in its]) for its in averaged] for of in (old_w, old_v, old_u))
        x, y = ([torch.cat([getattr(data[j], part) for j in near]) for near in NEAR] for part in ("x", "y"))
        total = reached([literal.means(*its, step) for its in zip(mean, x, y, strict=True)], hops)
        for i in range(K):
            known = NEAR[i] if inputs == "neighbourhood" else range(K)
            a = sum(first[j] for j in known) / sum(ROWS[j] for j in known)
            move = u[i] if moved else None
            tries = literal.candidates(mean[i], last[i], a, x[i], y[i], step, u=move, total=total[i])  # type: ignore[arg-type]
            chosen[-1].append(literal.best(tries, x[i], y[i], loss))
            w_k[i] = tries[chosen[-1][-1] - 1]
            v_k[i] = trees.add(literal.subtract(w_k[i], mean[i]), u[i])
    return w_k, chosen


def reached(mean: list[list[Tensor]], hops: int) -> list[list[Tensor]]:
    """Means over the rows of the neighbourhoods `hops` links away, a row as often as there are ways to it."""
    ways = torch.tensor([[float(j in near) for j in range(K)] for near in NEAR]).double()
    rows = ways @ torch.tensor(ROWS).double()
    share = torch.linalg.matrix_power(ways, hops - 1) * rows
    share = share / share.sum(1, keepdim=True)
    parts = [torch.einsum("ij,j...->i...", share, torch.stack(part)) for part in zip(*mean, strict=True)]
    return [list(its) for its in zip(*parts, strict=True)]


@pytest.mark.few(3)
@pytest.mark.parametrize(
    "name", often(OPTIONS, ["shared inputs", "squared", "bfloat16", "local epochs", "no averaging", "two hops"])
)
def test_is_the_algorithm(name: str) -> None:
    options = {**FEW, **OPTIONS[name]}
    loss = options.pop("loss", "cross_entropy")
    coded = {"wire": HALF()} if "wire" in options else {}
    own = {key: value for key, value in options.items() if key != "wire"}
    found = federation.run(dfedkfac(Task(federation.network(), losses.NAMES[loss]), **own), rounds=3, **coded)
    w_k, chosen = transcript(3, loss, **options)
    assert [[int(choice) for choice in extra["choice"]] for extra in found.extras] == chosen
    assert name == "single try" or len({choice for choices in chosen for choice in choices}) > 1
    assert not any(bool(failed) for extra in found.extras for failed in extra["failed"])
    assert_close(found.state.w_k.values, [dict(w) for w in w_k], 1e-9)
    assert_close(found.aggregate, average(w_k), 1e-9)


def test_the_final_model_may_be_weighted_by_rows() -> None:
    found = federation.run(dfedkfac(federation.task(), **FEW, aggregation="weighted"))
    assert_close(found.aggregate, average(found.state.w_k.values, [rows / sum(ROWS) for rows in ROWS]))


@pytest.mark.few(2)
@pytest.mark.parametrize("inputs", ["neighbourhood", "shared"])
@pytest.mark.parametrize("momentum", [True, False])
def test_on_a_complete_graph_it_is_fedkfac_with_all_clients_and_rows(inputs: Any, momentum: bool) -> None:
    complete = Graph([(i, j) for i in range(K) for j in range(i)], K)
    options = {**FEW, "momentum": momentum}
    found = federation.run(dfedkfac(federation.task(), **options, inputs=inputs), graph=complete, rounds=3)
    server = federation.run(fedkfac(federation.task(), **options, selection="loss", guard=False, balance=1.0), rounds=3)
    assert_close(found.state.w_k.values, [server.aggregate] * K, 1e-10)
    assert [extra["choice"] for extra in found.extras] == [[extra["choice"]] * K for extra in server.extras]


def test_who_of_a_neighbourhood_holds_which_row_does_not_matter() -> None:
    """Nodes 0, 1 and 2 of a triangle: its union of rows, in any order and any split, gives the same step."""
    triangle = Graph([(0, 1), (1, 2), (0, 2)], 3)
    x, y, real = (torch.cat(parts) for parts in zip(*federation.shards([4, 1, 7]), strict=True))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    split = [Shard(x[rows], y[rows], real[rows]) for rows in order.split([2, 9, 1])]
    one = federation.run(dfedkfac(federation.task(), **FEW), federation.shards([4, 1, 7]), graph=triangle)
    other = federation.run(dfedkfac(federation.task(), **FEW), split, graph=triangle)
    assert_close(one.aggregate, other.aggregate, 1e-10)


def test_bytes() -> None:
    """To every neighbour: w, v, A and rows; w, D and c; and back g, A, B, B, rows; Q, rows; losses, rows, failed."""

    def triangle(size: int) -> int:
        return size * (size + 1) // 2

    size = INPUTS * HIDDEN + HIDDEN + HIDDEN * OUTPUTS + OUTPUTS
    moments = size + triangle(HIDDEN + 1) + triangle(HIDDEN) + triangle(OUTPUTS) + 1
    each = 2 * size + (size + 3 * size + 4 * 3) + (moments + (3 * 3 + 1) + (2 * 4 + 1))
    first = triangle(INPUTS + 1) + 1
    for rounds in (1, 3):
        ledger = federation.run(dfedkfac(federation.task(), **FEW), rounds=rounds).ledger
        expected = {i: GRAPH.degree(i) * 8 * rounds * (each + first) for i in range(K)}
        assert dict(ledger.sent) == dict(ledger.received) == expected
        ledger = federation.run(dfedkfac(federation.task(), **FEW, inputs="shared"), rounds=rounds).ledger
        expected = {i: 8 * (GRAPH.degree(i) * rounds * each + first) for i in range(K)}
        assert dict(ledger.sent) == dict(ledger.received) == expected | {SERVER: K * 8 * first}


def test_local_epochs_cost_their_move_and_a_direction() -> None:
    size = INPUTS * HIDDEN + HIDDEN + HIDDEN * OUTPUTS + OUTPUTS
    plain = federation.run(dfedkfac(federation.task(), **FEW), rounds=2).ledger
    found = federation.run(dfedkfac(federation.task(), **FEW, **LOCAL), rounds=2).ledger
    more = size + size + 4 + 4**2 - 3**2
    assert {i: found.sent[i] - plain.sent[i] for i in range(K)} == {i: 2 * 8 * more * GRAPH.degree(i) for i in range(K)}


def test_a_hop_costs_the_moments_of_the_present_weights() -> None:
    size = INPUTS * HIDDEN + HIDDEN + HIDDEN * OUTPUTS + OUTPUTS
    plain = federation.run(dfedkfac(federation.task(), **FEW), rounds=2).ledger
    found = federation.run(dfedkfac(federation.task(), **FEW, hops=3), rounds=2).ledger
    more = size + sum(side * (side + 1) // 2 for side in (HIDDEN + 1, HIDDEN, OUTPUTS)) + 1
    assert {i: found.sent[i] - plain.sent[i] for i in range(K)} == {
        i: 2 * 2 * 8 * more * GRAPH.degree(i) for i in range(K)
    }
    assert found.work == plain.work  # the hops only add


def test_on_a_complete_graph_more_hops_change_nothing() -> None:
    complete = Graph([(i, j) for i in range(K) for j in range(i)], K)
    one, three = (
        federation.run(dfedkfac(federation.task(), **FEW, **LOCAL, hops=hops), graph=complete, rounds=2)
        for hops in (1, 3)
    )
    assert_close(three.state.w_k.values, one.state.w_k.values, 1e-10)


def test_a_node_whose_local_steps_are_not_finite_takes_none() -> None:
    data = federation.shards()
    data[-1] = data[-1]._replace(x=data[-1].x * torch.nan)
    alone = Graph([(i, j) for i in range(K - 1) for j in range(i)], K)
    found = federation.run(dfedkfac(federation.task(), **FEW, **LOCAL), data, graph=alone, rounds=1)
    assert_same(found.state.w_k.values[-1], federation.task().w_0)
    assert [bool(failed) for failed in found.extras[0]["failed"]] == [False] * (K - 1) + [True]


@pytest.mark.parametrize("hops", [1, 2])
def test_a_guard_costs_every_nodes_rows_a_neighbour_and_hop(hops: int) -> None:
    plain = federation.run(dfedkfac(federation.task(), **FEW, hops=hops), rounds=2).ledger
    guarded = federation.run(dfedkfac(federation.task(), **FEW, hops=hops, guard=True), rounds=2).ledger
    assert {i: guarded.sent[i] - plain.sent[i] for i in range(K)} == {
        i: 2 * hops * 8 * K * GRAPH.degree(i) for i in range(K)
    }


def test_a_guard_leaves_out_who_would_see_a_neighbour_or_a_row() -> None:
    """Sums must be over 3 neighbours, none with more than half of the rows, and 2 (10 + 1) rows in all."""
    complete = Graph([(i, j) for i in range(K) for j in range(i)], K)
    data = federation.shards([9, 9, 9, 8, 7, 9])
    method = dfedkfac(federation.task(), **FEW, guard=True)
    assert method.exposure == "aggregate"
    found = federation.run(method, data, graph=complete, rounds=1)
    free = federation.run(dfedkfac(federation.task(), **FEW), data, graph=complete, rounds=1)
    assert not any(bool(failed) for failed in found.extras[0]["failed"])
    assert_close(found.aggregate, free.aggregate)
    few = federation.run(method, federation.shards([5, 4, 5, 4, 3, 5]), graph=complete, rounds=1)
    assert [bool(failed) for failed in few.extras[0]["failed"]] == [
        5 + 4 + 5 + 4 + 3 + 5 - own < 22 for own in [5, 4, 5, 4, 3, 5]
    ]
    big = federation.run(method, federation.shards([2, 2, 4, 40, 2, 2]), graph=complete, rounds=1)
    assert [bool(failed) for failed in big.extras[0]["failed"]] == [True] * 3 + [True] + [True] * 2
    path = federation.run(method, data, graph=GRAPH, rounds=1)
    assert [bool(failed) for failed in path.extras[0]["failed"]] == [GRAPH.degree(i) < 3 for i in range(K)]
    lonely = federation.run(method, data, graph=LONELY, rounds=1)
    assert not bool(lonely.extras[0]["failed"][3])


def test_a_guard_of_two_hops_wants_a_crowd_at_either_distance() -> None:
    """In a circle where each knows three on either side all have one, the fifteenth, on a single link, has none."""
    graph = Graph([*((i, (i + step) % 14) for i in range(14) for step in (1, 2, 3)), (0, 14)], 15)
    options, data = {**FEW, "hops": 2, "inputs": "shared"}, federation.shards([5] * 15)
    method = dfedkfac(federation.task(), **options, guard=True)
    assert method.exposure == "aggregate"
    guarded, free = (
        federation.run(of, data, graph=graph, rounds=1) for of in (method, dfedkfac(federation.task(), **options))
    )
    assert [bool(failed) for failed in guarded.extras[0]["failed"]] == [False] * 14 + [True]
    same = [_equal(*its) for its in zip(guarded.state.w_k.values, free.state.w_k.values, strict=True)]
    assert same == [False] + [True] * 13 + [False]  # the first has not got the fifteenth's sums
    complete = Graph([(i, j) for i in range(6) for j in range(i)], 6)  # nobody is two links away
    found = federation.run(method, data[:6], graph=complete, rounds=1)
    assert all(bool(failed) for failed in found.extras[0]["failed"])


def _equal(one: Weights, other: Weights) -> bool:
    return all(torch.allclose(one[name], other[name], rtol=1e-10) for name in other)


def test_a_guard_asks_for_rows_enough_in_the_shared_sum() -> None:
    method = dfedkfac(federation.task(), **FEW, guard=True, inputs="shared")
    message = r"^`nodes` must have at least 20 rows in a sum, twice a layer's inputs; got 19\. Add nodes, or "
    with pytest.raises(ValueError, match=message):
        federation.run(method, federation.shards([3, 3, 3, 4, 3, 3]))
    federation.run(method, federation.shards([3, 3, 3, 5, 3, 3]))


def test_what_a_recipe_saves_on_the_wire() -> None:
    """No momentum: no v, nor its direction. A single try: no c, no scores. bfloat16: D in two bytes a number."""
    size = federation.task().size
    plain = sent(scales=(1.0,))
    assert plain - sent(scales=(1.0,), momentum=False) == 8 * (2 * size + (9 - 4) + 2)
    assert plain - sent(scales=(1.0,), ridges=(0.3,)) == 8 * (2 * 3 + 2 * 2 + 1)
    assert plain - sent(HALF(), scales=(1.0,)) == 6 * 3 * size


def sent(wire: Wire | None = None, **options: Any) -> int:
    """By node 0, to its one neighbour."""
    assert GRAPH.degree(0) == 1
    coded = {} if wire is None else {"wire": wire}
    return federation.run(dfedkfac(federation.task(), **{**FEW, **options}), rounds=1, **coded).ledger.sent[0]


def test_a_node_without_neighbours_steps_alone() -> None:
    found = federation.run(dfedkfac(federation.task(), **FEW), graph=LONELY, rounds=2)
    alone = federation.run(
        fedkfac(federation.task(), **FEW, selection="loss", guard=False, balance=1.0),
        federation.shards()[3:4],
        rounds=2,
    )
    assert LONELY.degree(3) == 0
    assert_close(found.state.w_k.values[3], alone.aggregate, 1e-10)


@pytest.mark.parametrize("options", [{}, {"ridges": (0.1,), "scales": (0.7,)}, {"hops": 2}])
def test_a_node_whose_rows_blow_up_keeps_its_mean_and_its_neighbours_refuse_it(options: dict[str, Any]) -> None:
    data = federation.shards()
    data[3] = data[3]._replace(x=torch.full_like(data[3].x, torch.inf))
    method = dfedkfac(federation.task(), **{**FEW, **options})
    found = federation.run(method, data, rounds=1)
    without = federation.run(method, data, graph=LONELY, rounds=1)
    for i, (w, choice) in enumerate(zip(found.state.w_k.values, found.extras[0]["choice"], strict=True)):
        assert (int(choice) == 0) == bool(found.extras[0]["failed"][i]) == (i == 3)
        assert int(found.extras[0]["refused"][i]) == (i in GRAPH.neighbours[3])
        assert_close(w, federation.task().w_0 if i == 3 else without.state.w_k.values[i], 1e-12)


def test_factors_that_no_damping_saves_keep_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    solve = span.directions
    monkeypatch.setattr(span, "directions", lambda *given: trees.scale(solve(*given), torch.nan))
    found = federation.run(dfedkfac(federation.task(), **FEW), rounds=1)
    assert all(bool(failed) for failed in found.extras[0]["failed"])
    assert_close(found.state.w_k.values, [federation.task().w_0] * K, 1e-15)


PATH = Graph([(0, 1), (1, 2)], 3)


def rows(example: Example) -> list[Shard]:
    """Of three nodes, for a model of OUTPUTS classes."""
    data = []
    for node, n in enumerate((3, 2, 4)):
        y = federation.philox("labels", 1, node).integers(0, OUTPUTS, n)
        data.append(Shard(example.samples(n, seed=node), torch.from_numpy(y), torch.ones(n, dtype=torch.bool)))
    return data


@pytest.mark.few(2)
@pytest.mark.parametrize("name", ["convolutions", "transformer", "tied to the embedding", "recurrent"])
def test_other_layers_learn_too_and_the_engines_agree(name: str) -> None:
    example = everything()[name]
    task, data = Task(example.model), rows(example)
    run = partial(
        federation.run, dfedkfac(task, **FEW | {"weight_decay": 0.0}, other="exact"), data, graph=PATH, rounds=2
    )
    found = run()
    if name != "recurrent":  # which no vmap takes
        assert_close(run(engine=federation.engine("vectorized", 3)).aggregate, found.aggregate, 1e-8)
    before, after = (
        sum(float(losses.cross_entropy.per_sample(task.predict(w, part.x), part.y).sum()) for part in data)
        for w in (task.w_0, found.aggregate)
    )
    assert after < 0.95 * before
    if name == "transformer":  # its look-up alone sees the data itself; and the padding's row is not trained
        assert [set(a) for a, _ in found.state.a_k.values] == [{"words.weight^T"}] * 3
        assert_same(found.aggregate["words.weight"][0], task.w_0["words.weight"][0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": "mine"}, r"^`inputs` must be 'neighbourhood' or 'shared'; got 'mine'\. Choose one of the two\.$"),
        ({"aggregation": "best"}, r"^`aggregation` must be 'plain' or 'weighted'; got 'best'\. Choose .*\.$"),
        ({"hops": 0}, r"^`hops` must be 1 or more; got 0\. Take 1 .*\.$"),
        ({"ridges": (0.0,)}, r"^`ridges` must be positive numbers; got \[0.0\]\. Give at least one\.$"),
    ],
)
def test_a_wrong_option_is_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dfedkfac(federation.task(), **options)
