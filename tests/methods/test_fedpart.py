"""FedPart against its literal transcript under every host, its identities, its bill, and what it refuses."""

from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch

from fedtangent import trees
from fedtangent.catalog import load, names
from fedtangent.federation import SERVER, Central, Each, Fleet, Method, NodeError
from fedtangent.methods.fedpart import _turn, fedpart, scheduled
from fedtangent.training.task import Task
from tests import tiny_federation as federation
from tests.methods.literal_partial import HOSTS, Literal
from tests.methods.literal_server import K, drawn
from tests.often import often
from tests.tiny_federation import HIDDEN, INPUTS, OUTPUTS, ROWS, assert_close, assert_same, philox

LAYERS = (("0.weight", "0.bias"), ("2.weight", "2.bias"))
ALL = LAYERS[0] + LAYERS[1]
SIZE = {"0.weight": INPUTS * HIDDEN, "0.bias": HIDDEN, "2.weight": HIDDEN * OUTPUTS, "2.bias": OUTPUTS}
LOCAL: dict[str, Any] = {"epochs": 2, "batch": 3, "lr": 0.3}
BUDGETS = [("sequential", 1), ("vectorized", 2), ("vectorized", 6)]
ONE = [list(ALL)]


def host(name: str, **options: Any) -> Any:
    return partial(load("methods", name), **options)


def active(t: int, warm_up: int, rounds_per_group: int) -> tuple[str, ...]:
    """The schedule, typed literally from the authors' code."""
    u = (t - 1) % (warm_up + rounds_per_group * len(LAYERS))
    return ALL if u < warm_up else LAYERS[(u - warm_up) // rounds_per_group]


@pytest.mark.parametrize(("engine", "budget"), BUDGETS)
@pytest.mark.parametrize("name", often(HOSTS, ["fedavg", "fedprox", "moon"]))
def test_is_the_papers_algorithm_under_every_host(name: str, engine: str, budget: int) -> None:
    """The weights, the host's memories of client and server, and every client's bytes in both directions."""
    options, rounds = {**HOSTS[name], **LOCAL}, 7
    made = fedpart(federation.task(), host=host(name, participation=0.5, **options), warm_up=1, rounds_per_group=2)
    found = federation.run(made, rounds=rounds, engine=federation.engine(engine, budget))
    literal = Literal(name, HOSTS[name], 0.5, LOCAL)
    for t in range(1, rounds + 1):
        literal.round(t, active(t, 1, 2))
    state = federation.plain(found.state.host)
    for field, expected in literal.state.items():
        assert_close(state[field], expected, 1e-11)
    assert_close(found.aggregate, literal.w, 1e-11)
    assert [found.ledger.sent[i] for i in range(K)] == literal.up
    assert [found.ledger.received[i] for i in range(K)] == literal.down
    assert (found.ledger.received[SERVER], found.ledger.sent[SERVER]) == (sum(literal.up), sum(literal.down))
    assert [extra["trained_parameters"] for extra in found.extras] == [
        sum(SIZE[part] for part in active(t, 1, 2)) for t in range(1, rounds + 1)
    ]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fedavg", {"lr": 0.01, "optimizer": "adam"}),
        ("fedopt", {"optimizer": "yogi", "lr": 0.2, "momentum": 0.5}),
        ("scaffold", {"lr": 0.2, "aggregation": "weighted"}),
    ],
)
def test_with_one_group_and_no_warm_up_it_is_the_host(name: str, options: dict[str, Any]) -> None:
    options = {"participation": 0.7, **options}
    expected = federation.run(load("methods", name)(federation.task(), **options), rounds=4)
    made = fedpart(federation.task(), host=host(name, **options), warm_up=0, groups=ONE)
    found = federation.run(made, rounds=4)
    assert_same(federation.plain(found.state.host), federation.plain(expected.state))
    assert (found.ledger.sent, found.ledger.received) == (expected.ledger.sent, expected.ledger.received)
    always = federation.run(fedpart(federation.task(), host=host(name, **options), warm_up=9), rounds=4)
    assert_same(always.aggregate, expected.aggregate)


@pytest.mark.parametrize(("engine", "budget"), BUDGETS)
@pytest.mark.parametrize("name", HOSTS)
def test_what_is_frozen_or_absent_stays_to_the_last_bit(name: str, engine: str, budget: int) -> None:
    made = fedpart(federation.task(), host=host(name, participation=0.5, **HOSTS[name]), warm_up=1, rounds_per_group=1)
    options = {"engine": federation.engine(engine, budget)}
    before = federation.plain(federation.run(made, rounds=1, **options).state.host)
    after = federation.plain(federation.run(made, rounds=2, **options).state.host)
    present = drawn(2, 0.5)
    for field, value in after.items():
        for i, (new, old) in enumerate(
            zip(value, before[field], strict=True) if field.endswith("_k") else [(value, before[field])]
        ):
            if not isinstance(new, dict):
                continue
            for part in LAYERS[1]:
                assert torch.equal(new[part], old[part])
            if field.endswith("_k") and i not in present:
                assert_same(new, old)
            elif field in ("w", "c", "h", "m", "c_k", "g_k", "previous_k"):
                assert not torch.equal(new["0.weight"], old["0.weight"])


def test_layers_below_the_active_one_are_not_passed_backwards_and_frozen_ones_have_no_gradient() -> None:
    """Multiply-adds that really run, by hand: a step has 3 rows, or all of a node's, padding included."""
    first, second = INPUTS * HIDDEN, HIDDEN * OUTPUTS
    made = fedpart(federation.task(), host=host("fedavg", **LOCAL), warm_up=1, rounds_per_group=1)
    work = [federation.run(made, rounds=k).ledger.work for k in (1, 2, 3)]
    for node, rows in enumerate(ROWS):
        wide = min(LOCAL["batch"], rows)
        steps = LOCAL["epochs"] * -(-rows // wide) * wide
        a_round = [after[node] - before.get(node, 0) for before, after in zip([{}, *work], work, strict=False)]
        forward = first + second
        assert a_round == [
            steps * (forward + second + second + first),  # activations above layer 0, both gradients of weights
            steps * (forward + second + first),  # activations above layer 0, its gradient of weights
            steps * (forward + second),  # nothing below the last layer
        ]


@pytest.mark.parametrize(("warm_up", "rounds_per_group"), [(5, 2), (0, 1), (1, 3)])
def test_the_uplink_of_a_cycle_is_the_papers_share_of_full_updates(warm_up: int, rounds_per_group: int) -> None:
    cycle = warm_up + rounds_per_group * len(LAYERS)
    part = fedpart(federation.task(), warm_up=warm_up, rounds_per_group=rounds_per_group)
    counts = 8 * K * cycle  # n_k
    up, full = (
        federation.run(made, rounds=cycle).ledger.received[SERVER] - counts
        for made in (part, load("methods", "fedavg")(federation.task()))
    )
    assert Fraction(up, full) == Fraction(warm_up + rounds_per_group, cycle)


def test_with_all_clients_the_downlink_is_what_the_last_round_changed() -> None:
    made = fedpart(federation.task(), warm_up=1, rounds_per_group=1)
    sent = [federation.run(made, rounds=k).ledger.sent[SERVER] for k in (1, 2, 3, 4, 5)]
    first, second = (8 * K * sum(SIZE[name] for name in layer) for layer in LAYERS)
    assert [b - a for a, b in zip([0, *sent], sent, strict=False)] == [
        first + second,  # w_0
        first + second,  # a full round changed all
        first,
        second,
        first + second,
    ]


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize(("count", "warm_up", "rounds_per_group"), [(10, 5, 2), (3, 0, 1), (1, 2, 4), (4, 60, 3)])
def test_the_schedule_is_that_of_a_loop(count: int, warm_up: int, rounds_per_group: int, once: bool) -> None:
    expected: list[tuple[int, int | None]] = []
    for cycle in range(3):
        first = len(expected) + 1
        opening = warm_up if cycle == 0 or not once else 0
        start = first + opening if once else first
        expected += [(1 if once else first, None)] * opening
        for visit in range(count):
            expected += [(start, visit)] * rounds_per_group
    found = [scheduled(k, count, warm_up, rounds_per_group, once) for k in range(1, len(expected) + 1)]
    assert found == expected


def turns(order: Any, first: int, count: int = 5) -> list[int]:
    """The groups of a cycle, each asked for in another round of it."""
    return [_turn(federation.fleet(round=first + 3 + v), order, first, v, count) for v in range(count)]


def test_the_orders() -> None:
    assert turns("sequential", 4) == [0, 1, 2, 3, 4]
    assert turns("reverse", 4) == [4, 3, 2, 1, 0]
    assert turns("random", 4) == philox("order", 4).permutation(5).tolist()
    assert turns("random", 4) != turns("random", 9)
    assert turns("drawn", 4) == philox("order", 4).integers(5, size=5).tolist()
    many = [group for first in range(1, 400) for group in turns("drawn", first)]
    assert all(abs(many.count(group) / len(many) - 0.2) < 0.05 for group in range(5))


@pytest.mark.parametrize("order", ["reverse", "random", "drawn"])
def test_the_group_of_the_order_is_the_one_that_is_trained(order: Any) -> None:
    made = fedpart(federation.task(), warm_up=0, rounds_per_group=1, order=order)
    sizes = [sum(SIZE[name] for name in layer) for layer in LAYERS]
    found = [extra["trained_parameters"] for extra in federation.run(made, rounds=4).extras]
    assert found == [sizes[group] for first in (1, 3) for group in turns(order, first, 2)]


def test_groups_by_hand_and_those_found_are_the_same_here() -> None:
    options: dict[str, Any] = {"warm_up": 0, "rounds_per_group": 1}
    found = federation.run(fedpart(federation.task(), **options), rounds=3).aggregate
    by_hand = federation.run(fedpart(federation.task(), groups=[["0"], ["2.weight", "2.bias"]], **options), rounds=3)
    assert_same(by_hand.aggregate, found)
    other = federation.run(fedpart(federation.task(), groups=[["2"], ["0"]], **options), rounds=3).aggregate
    assert not torch.equal(other["0.weight"], found["0.weight"])


def test_a_host_is_built_once_for_every_group() -> None:
    built: list[tuple[str, ...] | None] = []

    def counted(task: Task) -> Method:
        built.append(task.names)
        return load("methods", "fedavg")(task)  # type: ignore[no-any-return]

    federation.run(fedpart(federation.task(), host=counted, warm_up=1, rounds_per_group=2), rounds=11)
    assert built == [None, *LAYERS]


class Kept:
    """FedAvg whose round does not keep to the part that it is given."""

    def __init__(self, task: Task, wrong: str) -> None:
        self.inner, self.part, self.wrong = load("methods", "fedavg")(federation.task()), task, wrong

    def round(self, fleet: Fleet, state: Any, data_k: Any, k: int) -> tuple[Any, dict[str, Any]]:
        if self.wrong == "trains the whole model":
            return self.inner.round(fleet, state, data_k, k)  # type: ignore[no-any-return]
        clients = self.inner.clients(fleet)  # type: ignore[misc]
        w_k = clients.broadcast(state.w)
        if self.wrong == "returns the whole model":
            whole = federation.task().w_0
            return type(state)(clients.mean(clients.map(lambda w: {**whole, **w}, w_k))), {}
        if self.wrong == "returns less":
            return type(state)(clients.mean(clients.map(lambda w: dict(sorted(w.items())[:1]), w_k))), {}
        mixed = [w if node else federation.task().w_0 for node, w in zip(clients.nodes, w_k.values, strict=True)]
        return type(state)(clients.mean(Each(clients, dict(zip(clients.nodes, mixed, strict=True))))), {}


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ("trains the whole model", NodeError, "`predict` must have every parameter"),
        (
            "returns the whole model",
            ValueError,
            r"^`host` must give the 2 parameters that it was given; got 4\. A part",
        ),
        (
            "returns less",
            ValueError,
            r"^`host` must give the 2 parameters that it was given; got 1\. A part must never",
        ),
    ],
)
def test_a_part_is_never_averaged_as_if_it_were_a_whole_model(wrong: str, error: type[Exception], message: str) -> None:
    def build(task: Task) -> Method:
        kept = Kept(task, wrong)
        return kept.inner._replace(round=kept.round)

    with pytest.raises(error, match=message):
        federation.run(fedpart(federation.task(), host=build, warm_up=0), rounds=1)


def test_a_client_that_sends_the_whole_model_is_as_absent() -> None:
    def build(task: Task) -> Method:
        kept = Kept(task, "sends the whole from one client")
        return kept.inner._replace(round=kept.round)

    found = federation.run(fedpart(federation.task(), host=build, warm_up=0), rounds=1)
    assert_close(found.aggregate, federation.task().w_0, 1e-15)


class Nested(NamedTuple):
    w: Central[Any]
    more: Central[Any]


def test_a_state_inside_the_hosts_fields_is_cut_and_joined_too() -> None:
    """Tuples and dicts of trees, beside values that have nothing to do with parameters."""
    inner = load("methods", "fedavg")

    def nested(task: Task) -> Method:
        host = inner(task)

        def init(fleet: Fleet, data_k: Any) -> Any:
            w = host.init(fleet, data_k).w.value
            return Nested(Central(w), Central({"last": (w, w), "rounds": torch.zeros(3)}))

        def round(fleet: Fleet, state: Any, data_k: Any, k: int) -> tuple[Any, dict[str, Any]]:
            new, extra = host.round(fleet, state, data_k, k)
            (_, old), seen = state.more.value["last"], state.more.value["rounds"]
            assert set(old) == set(state.w.value) == set(task.w_0)
            more = {"last": (old, new.w.value), "rounds": seen + 1}
            return Nested(new.w, Central(more)), extra

        return host._replace(init=init, round=round)

    found = federation.run(fedpart(federation.task(), host=nested, warm_up=0, rounds_per_group=1), rounds=2).state.host
    older, old = found.more.value["last"]
    assert_same(old, found.w.value)
    assert_same(older, federation.task().w_0)
    assert_same(found.more.value["rounds"], torch.full((3,), 2.0))


BEARING = ("fedavg", "feddyn", "fednova", "fedopt", "fedprox", "moon", "scaffold")
GOSSIPING = ("dfedavg", "dfedsam", "dpsgd", "epidemic", "gradient_tracking", "oledfl", "qgdsgdm")


@pytest.mark.parametrize("name", names("methods"))
def test_hosts_say_whether_they_bear_partial_updates(name: str) -> None:
    traits = load("methods", name)(federation.task()).traits
    assert traits.averages == (name in (*BEARING, "fedpart"))
    assert traits.gossips == (name in GOSSIPING)
    if name not in (*BEARING, *GOSSIPING):
        message = (
            f"`host` must bear partial updates; got {name}, which does not. Use a method that averages weights at a "
            "server, such as fedavg, or between neighbours, such as dfedavg."
        )
        with pytest.raises(ValueError) as caught:
            fedpart(federation.task(), host=load("methods", name))
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "up"}, "`order` must be one of sequential, reverse, random, drawn; got 'up'. Choose one of these."),
        ({"warm_up": -1}, "`warm_up` must be at least 0; got -1. Give a number of rounds."),
        ({"rounds_per_group": 0}, "`rounds_per_group` must be at least 1; got 0. Give a number of rounds."),
        (
            {"groups": [["0"], ["2.weight"]]},
            "`groups` must hold every trainable parameter once; got '2.bias' 0 times. Put it into one group.",
        ),
        (
            {"groups": [["0", "2"], ["0.bias"]]},
            "`groups` must hold every trainable parameter once; got '0.bias' 2 times. Put it into one group.",
        ),
        (
            {"groups": [["conv1"], ["2"]]},
            "`groups` must name trainable parameters of the model, or modules; got 'conv1'. Its parameters are "
            "0.weight, 0.bias, 2.weight, 2.bias.",
        ),
        (
            {"host": host("fedavg", participation=1.2)},
            "`participation` must be in (0, 1]; got 1.2. Use 1 for all clients.",
        ),
    ],
)
def test_wrong_values_are_one_clear_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        fedpart(federation.task(), **options)
    assert str(caught.value) == message


def test_a_cohort_larger_than_the_federation() -> None:
    def many(task: Task) -> Method:
        return load("methods", "fedavg")(task)._replace(clients=lambda fleet: fleet.cohort(7))  # type: ignore[no-any-return]

    with pytest.raises(ValueError, match=r"^`size` must be between 1 and 6 nodes; got 7\. Draw fewer nodes\.$"):
        federation.run(fedpart(federation.task(), host=many))


def test_what_is_left_of_one_host_is_no_part_of_another() -> None:
    """Two hosts on parts of one task, side by side in time: the frozen weights are those of each one's own round."""
    made = fedpart(federation.task(), warm_up=0, rounds_per_group=1)
    fleet = federation.fleet()
    data_k = fleet.each(federation.shards())
    state = made.init(fleet, data_k)
    shifted = state._replace(host=type(state.host)(Central(trees.map(lambda w: w + 1, state.host.w.value))))
    one, _ = made.round(fleet, state, data_k, 1)
    two, _ = made.round(fleet, shifted, data_k, 1)
    again, _ = made.round(replace(fleet, round=1), state, data_k, 1)
    assert_same(federation.plain(again), federation.plain(one))
    assert not torch.equal(two.host.w.value["0.weight"] - 1, one.host.w.value["0.weight"])
    assert torch.equal(two.host.w.value["2.bias"], shifted.host.w.value["2.bias"])
