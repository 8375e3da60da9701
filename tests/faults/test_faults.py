"""Every fault: what it draws, typed literally; the ends of its options; what cannot be."""

from functools import partial
from typing import Any

import numpy as np
import pytest

from fedtangent.catalog import load, names
from fedtangent.experiments.experiment import Experiment
from fedtangent.experiments.options import options
from fedtangent.faults.dropout import dropout
from fedtangent.faults.links import links
from fedtangent.faults.stragglers import stragglers
from fedtangent.federation import SERVER, Fault, Missing, Planned, generator
from tests.tiny_federation import GRAPH, ROWS, SEED, philox

ROUNDS = range(1, 40)


def missing(fault: Fault, name: str, round: int = 1, rows: tuple[int, ...] = ROWS, server: bool = False) -> Missing:
    pairs = tuple((SERVER, node) for node in range(len(rows))) if server else GRAPH.edges
    draw = lambda k: generator(SEED, k, f"fault {name}")  # noqa: E731
    return fault.missing(Planned(round, rows, pairs), draw)


@pytest.mark.parametrize("name", names("faults"))
def test_a_fault_hangs_on_round_and_seed_alone(name: str) -> None:
    made = load("faults", name)()
    found = [missing(made, name, k) for k in ROUNDS]
    assert found == [missing(load("faults", name)(), name, k) for k in ROUNDS]
    assert len({str(one) for one in found}) > 3
    assert all({*one.nodes} <= {*range(len(ROWS))} and {*one.links} <= {*GRAPH.edges} for one in found)


def test_every_option_has_a_name_of_its_own() -> None:
    """So that faults can be chained, and no option is taken for a setting of the experiment, such as device."""
    offered = [name for fault in names("faults") for name in options(load("faults", fault))]
    assert len({*offered}) == len(offered)
    assert not {*offered, "quorum"} & {*options(Experiment)}


@pytest.mark.parametrize("round", [1, 7])
def test_dropout_is_one_number_a_node(round: int) -> None:
    chance = philox("fault dropout", round).random(len(ROWS))
    for absent in (0.0, 0.2, 0.5, 0.8, 1.0):
        assert missing(dropout(absent=absent), "dropout", round).nodes == [
            node for node in range(len(ROWS)) if chance[node] < absent
        ]


@pytest.mark.parametrize("server", [False, True])
def test_links_are_one_number_a_link(server: bool) -> None:
    for failing in (0.0, 0.2, 0.6, 1.0):
        found = missing(links(failing=failing), "links", 3, server=server)
        pairs = [(SERVER, node) for node in range(len(ROWS))] if server else list(GRAPH.edges)
        chance = philox("fault links", 3).random(len(pairs))
        assert found == Missing(links=[pair for pair, one in zip(pairs, chance, strict=True) if one < failing])


@pytest.mark.parametrize("work", [True, False])
def test_a_straggler_s_time_is_rows_times_a_device_s_and_a_round_s_factor(work: bool) -> None:
    late = []
    for round in ROUNDS:
        device, jitter = (philox("fault stragglers", k).standard_normal(len(ROWS)) for k in (0, round))
        time = np.exp(0.7 * device) * np.exp(0.3 * jitter)
        if work:
            time = time * np.array(ROWS) / (sum(ROWS) / len(ROWS))
        made = stragglers(deadline=1.3, work=work, spread=0.7, jitter=0.3)
        late.append(missing(made, "stragglers", round).nodes)
        assert late[-1] == [node for node in range(len(ROWS)) if time[node] > 1.3]
    often = [sum(node in its for its in late) for node in range(len(ROWS))]
    assert 0 in often  # a fast device is never late
    assert max(often) > len(ROUNDS) / 2


def test_without_chance_the_larger_nodes_are_the_late_ones() -> None:
    made = stragglers(deadline=1.5, spread=0.0, jitter=0.0)
    assert missing(made, "stragglers").nodes == [2, 5]  # 7 and 8 rows, of 4.5 on average
    assert missing(stragglers(deadline=1.5, work=False, spread=0.0, jitter=0.0), "stragglers").nodes == []


def test_absent_nodes_are_about_as_many_as_asked_for() -> None:
    made = dropout(absent=0.3)
    counts = [len(missing(made, "dropout", k, (1,) * 300).nodes) for k in ROUNDS]
    assert abs(np.mean(counts) - 90) < 3 * np.sqrt(300 * 0.3 * 0.7 / len(ROUNDS))
    assert np.std(counts) > 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(dropout, absent=1.1), "`absent` must be from 0 to 1; got 1.1. Use 0.3 for three nodes of ten."),
        (partial(dropout, absent=float("nan")), "`absent` must be from 0 to 1; got nan. Use 0.3 for three"),
        (partial(links, failing=-0.1), "`failing` must be from 0 to 1; got -0.1. Use 0.1 for one link of ten."),
        (partial(stragglers, deadline=0.0), "`deadline` must be positive; got 0.0. Use 2 for twice the usual time."),
        (partial(stragglers, spread=-1.0), "`spread` must be a number that is not negative; got -1.0. Use 0 for none."),
        (partial(stragglers, jitter=float("inf")), "`jitter` must be a number that is not negative; got inf. Use 0"),
    ],
)
def test_what_cannot_be_is_one_sentence(make: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value).startswith(message)
