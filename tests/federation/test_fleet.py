"""Every verb by an example worked by hand: nodes 0 - 1 - 2 in a line, and node 3 alone."""

import inspect
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedtangent.engines.vectorized import vectorized
from fedtangent.federation import SERVER, Central, Each, Fleet, Graph, Inbox, NodeError, rows
from tests import tiny_federation as federation
from tests.tiny_federation import assert_close, assert_same, philox

LINE = Graph([(0, 1), (1, 2)], 4)


def line(**options: Any) -> Fleet:
    return federation.fleet(4, **{"graph": LINE, **options})


def numbers(*values: float) -> list[Tensor]:
    return [torch.tensor(value, dtype=torch.float64) for value in values]


def x_of(fleet: Fleet) -> Each[Tensor]:
    return fleet.each(numbers(2, 3, 5, 7))


class TestMap:
    def test_runs_on_every_node(self) -> None:
        fleet = line()
        y_k = fleet.each(numbers(0.5, 0.25, 4, 8))
        assert fleet.map(lambda x, y: x - 2 * y, x_of(fleet), y_k).values == [1, 2.5, -3, -9]
        assert fleet.map(lambda: torch.tensor(6)).values == [6] * 4
        assert fleet.ledger.sent_bytes == 0

    def test_everywhere_is_one_object(self) -> None:
        value = torch.rand(3)
        assert all(one is value for one in line().everywhere(value).values)

    def test_an_each_of_tuples_unpacks(self) -> None:
        fleet = line()
        low_k, high_k = fleet.map(lambda x: (x - 1, {"up": x + 1}), x_of(fleet)).unzip(2)
        assert low_k.values == [1, 2, 4, 6]
        assert [high["up"].item() for high in high_k.values] == [3, 4, 6, 8]

    def test_is_computed_when_it_is_needed_and_then_kept(self) -> None:
        seen: list[float] = []

        def note(x: Tensor) -> Tensor:
            seen.append(x.item())
            return x * 2

        fleet = line()
        twice_k = fleet.map(note, x_of(fleet))
        sum_k = fleet.map(lambda a, b, c: a + b + c, twice_k, twice_k, fleet.map(lambda a: -a, twice_k))
        assert seen == []
        assert sum_k.values == [4, 6, 10, 14]
        assert seen == [2, 3, 5, 7]  # though three arguments ask for it
        assert sum_k.values == [4, 6, 10, 14]
        assert sum_k.values_at([2, 0]) == [10, 4]
        assert seen == [2, 3, 5, 7]

    def test_goes_chunk_by_chunk_in_any_order_of_the_engine(self) -> None:
        order: list[float] = []

        def note(x: Tensor) -> Tensor:
            order.append(x.item())
            return x

        fleet = line(engine=vectorized(memory=1), node_bytes={0: 5, 1: 9, 2: 5, 3: 7})
        assert [wave.nodes for wave in fleet.waves] == [(1,), (3,), (0,), (2,)]
        assert fleet.map(note, x_of(fleet)).values == [2, 3, 5, 7]
        assert order == [3, 7, 2, 5]


class TestDraw:
    @staticmethod
    def of(fleet: Fleet, purpose: str = "batches") -> list[float]:
        return [x.item() for x in fleet.draw(lambda rng: torch.tensor(rng.random()), purpose=purpose).values]

    def test_is_keyed_by_seed_round_node_and_purpose(self) -> None:
        expected = [float(np.float32(philox("batches", 3, node, seed=9).random())) for node in range(4)]
        drawn = self.of(line(seed=9, round=3))
        assert drawn == expected
        assert self.of(line(seed=9, round=3)) == drawn
        others = [
            self.of(line(seed=8, round=3)),
            self.of(line(seed=9, round=4)),
            self.of(line(seed=9, round=3), "else"),
        ]
        assert len({*drawn, *(x for other in others for x in other)}) == 16
        server = line(seed=9, round=3).rng("batches").random()
        assert server == philox("batches", 3, SERVER, seed=9).random()
        assert float(np.float32(server)) not in drawn

    def test_does_not_depend_on_who_else_draws_or_in_which_order(self) -> None:
        drawn = self.of(line())
        assert self.of(replace(line(), nodes=(2, 0))) == [drawn[2], drawn[0]]

    def test_hands_in_what_the_node_holds(self) -> None:
        fleet = line()
        drawn = fleet.draw(lambda rng, x: x * rng.integers(2, 9), x_of(fleet), purpose="p").values
        assert drawn == [x * int(philox("p", 1, i).integers(2, 9)) for i, x in enumerate(numbers(2, 3, 5, 7))]
        assert fleet.ledger.sent_bytes == 0

    def test_puts_numbers_on_the_device(self) -> None:
        (first, *_) = line(device="meta").draw(lambda rng: torch.zeros(2), purpose="p").values
        assert first.device.type == "meta"


class TestServer:
    def test_at_server(self) -> None:
        fleet = line()
        found = fleet.at_server(lambda a, b: a - b, Central(torch.tensor(5)), Central(torch.tensor(3)))
        assert found.value == 2
        assert fleet.ledger.sent_bytes == 0

    def test_a_central_of_tuples_unpacks(self) -> None:
        a, b = Central((1, "two")).unzip(2)
        assert (a.value, b.value) == (1, "two")

    def test_broadcast_sends_one_message_a_node(self) -> None:
        fleet = line()
        w = {"a": torch.rand(5, dtype=torch.float32), "b": torch.rand(2, dtype=torch.float64)}
        assert all(value is w for value in fleet.broadcast(Central(w)).values)
        assert dict(fleet.ledger.sent) == {SERVER: 4 * 36}
        assert dict(fleet.ledger.received) == dict.fromkeys(range(4), 36)

    def test_mean(self) -> None:
        fleet = line()
        assert fleet.mean(x_of(fleet)).value == 17 / 4
        assert dict(fleet.ledger.sent) == dict.fromkeys(range(4), 8)
        assert dict(fleet.ledger.received) == {SERVER: 32}

    def test_a_weighted_mean_sends_the_weights_too(self) -> None:
        fleet = line()
        weight_k = fleet.each([torch.tensor(n) for n in (4, 1, 0, 3)])
        tree_k = fleet.map(lambda x: {"w": torch.stack([x, -x])}, x_of(fleet))
        assert_close(fleet.mean(tree_k, weight_k).value, {"w": torch.tensor([4.0, -4.0], dtype=torch.float64)})
        assert dict(fleet.ledger.sent) == dict.fromkeys(range(4), 16 + 8)

    def test_weights_that_sum_to_zero_are_an_error(self) -> None:
        fleet = line()
        with pytest.raises(ValueError, match=r"^`weight_k` must not sum to zero; got only zeros. Give every .*\.$"):
            fleet.mean(x_of(fleet), fleet.everywhere(torch.tensor(0)))

    def test_gather_keeps_the_order_of_the_nodes(self) -> None:
        fleet = line(engine=vectorized(memory=0), node_bytes={0: 1, 1: 3, 2: 2, 3: 4})
        assert fleet.gather(fleet.map(lambda x: -x, x_of(fleet))).value == [-2, -3, -5, -7]
        assert dict(fleet.ledger.received) == {SERVER: 32}

    def test_a_bill_replaces_the_count(self) -> None:
        fleet = line()
        fleet.gather(x_of(fleet), bill=lambda x: int(x) * 100)
        assert dict(fleet.ledger.sent) == {0: 200, 1: 300, 2: 500, 3: 700}

    def test_rows(self) -> None:
        assert rows(federation.shards([6])[0]._replace(real=torch.arange(6) < 4)) == 4


class TestMix:
    @pytest.mark.parametrize(
        ("weights", "expected"),
        [("uniform", [5 / 2, 10 / 3, 4, 7]), ("metropolis", [7 / 3, 10 / 3, 13 / 3, 7])],
    )
    def test_is_the_gossip_matrix_times_the_values(self, weights: str, expected: list[float]) -> None:
        fleet = line(gossip_weights=weights)
        mixed = fleet.mix(fleet.map(lambda x: {"w": x.expand(3)}, x_of(fleet))).values
        assert_close(mixed, [{"w": x.expand(3)} for x in numbers(*expected)])
        assert dict(fleet.ledger.sent) == {0: 24, 1: 48, 2: 24}
        assert dict(fleet.ledger.received) == {0: 24, 1: 48, 2: 24}

    @given(st.integers(1, 7), st.data())
    def test_metropolis_weights_preserve_the_mean_of_any_graph(self, nodes: int, data: st.DataObject) -> None:
        pairs = [(i, j) for i in range(nodes) for j in range(i)]
        graph = Graph(data.draw(st.lists(st.sampled_from(pairs), max_size=12)) if pairs else [], nodes)
        fleet = federation.fleet(nodes, graph=graph, gossip_weights="metropolis")
        x_k = fleet.each([torch.from_numpy(philox("x", 1, i).normal(size=4)) for i in range(nodes)])
        assert_close(fleet.mean(fleet.mix(x_k)).value, fleet.mean(x_k).value)


class TestShare:
    def test_fills_an_inbox_in_the_order_of_the_neighbours(self) -> None:
        fleet = line()
        inbox_k = fleet.share(fleet.map(lambda x: (x, torch.stack([x, -x])), x_of(fleet)))
        assert [inbox.values[0].tolist() for inbox in inbox_k.values] == [[3], [2, 5], [3], []]
        assert inbox_k.values[1].values[1].tolist() == [[2, -2], [5, -5]]
        assert [inbox.real.tolist() for inbox in inbox_k.values] == [[True], [True, True], [True], []]
        assert inbox_k.values[3].values[1].shape == (0, 2)
        assert dict(fleet.ledger.sent) == dict(fleet.ledger.received) == {0: 24, 1: 48, 2: 24}

    def test_puts_rows_end_to_end(self) -> None:
        fleet = line()
        data = federation.shards([3, 4, 1, 2])
        first, second, _, alone = fleet.share(fleet.each(data)).values
        assert_same(second.values, type(data[0])(*(torch.cat(pair) for pair in zip(data[0], data[2], strict=True))))
        assert_same(first.values, data[1])
        assert [len(leaf) for leaf in alone.values] == [0, 0, 0]
        assert second.real.tolist() == [True, True]
        row = federation.INPUTS * 8 + 8
        assert dict(fleet.ledger.sent) == {0: 3 * row, 1: 2 * 4 * row, 2: row}


class TestAsk:
    @staticmethod
    def inbox(fleet: Fleet, **options: Any) -> Each[Inbox]:
        """What is 10 times mine less yours? Questions of 4 bytes, answers of 16."""
        question_k = fleet.map(lambda x: (10 * x).float(), x_of(fleet))
        other_k = fleet.map(lambda x: x + 0.5, x_of(fleet))
        return fleet.ask(lambda q, x, y: torch.stack([q - x, q - y]), question_k, x_of(fleet), other_k, **options)

    def test_gives_every_node_its_neighbours_answers(self) -> None:
        inbox_k = self.inbox(line())
        assert [inbox.values.tolist() for inbox in inbox_k.values] == [
            [[17, 16.5]],
            [[28, 27.5], [25, 24.5]],
            [[47, 46.5]],
            [],
        ]
        assert inbox_k.values[3].values.shape == (0, 2)
        assert [len(inbox.real) for inbox in inbox_k.values] == [1, 2, 1, 0]

    def test_without_own_values(self) -> None:
        fleet = line()
        assert [len(inbox.values) for inbox in fleet.ask(lambda q: -q, x_of(fleet)).values] == [1, 2, 1, 0]

    def test_books_question_and_answer_in_both_directions(self) -> None:
        fleet = line()
        inbox_k = self.inbox(fleet)
        assert fleet.ledger.sent_bytes == 0
        inbox_k.settle()
        assert dict(fleet.ledger.sent) == dict(fleet.ledger.received) == {0: 20, 1: 40, 2: 20}

    def test_a_bill_replaces_the_count_of_an_answer(self) -> None:
        fleet = line()
        self.inbox(fleet, bill=lambda answer: 1000).settle()
        assert dict(fleet.ledger.sent) == {0: 1004, 1: 2008, 2: 1004}

    def test_a_message_is_booked_once_even_if_it_is_computed_again(self) -> None:
        fleet = line()
        inbox_k = self.inbox(fleet)
        sums = [fleet.map(lambda inbox: inbox.values.sum(), inbox_k).values for _ in range(2)]
        assert sums[0] == sums[1]
        assert dict(fleet.ledger.sent) == {0: 20, 1: 40, 2: 20}

    def test_nothing_is_booked_while_paused(self) -> None:
        fleet = line()
        with fleet.ledger.paused():
            self.inbox(fleet).settle()
            fleet.mix(x_of(fleet))
            fleet.mean(fleet.broadcast(Central(torch.zeros(2))))
        assert fleet.ledger.sent_bytes == 0

    def test_the_answers_of_a_round_never_exist_all_at_once(self) -> None:
        alive, most, events = 0, 0, []

        def answer(q: Tensor, x: Tensor) -> Tensor:
            nonlocal alive, most
            found = q - x
            alive += 1
            most = max(most, alive)
            weakref.finalize(found, gone)
            events.append("answer")
            return found

        def gone() -> None:
            nonlocal alive
            alive -= 1

        def consume(inbox: Inbox) -> Tensor:
            events.append("consume")
            return inbox.values.sum()

        fleet = federation.fleet(6)
        inbox_k = fleet.ask(answer, fleet.each(numbers(2, 3, 5, 7, 11, 13)), fleet.each(numbers(1, 2, 4, 8, 16, 32)))
        fleet.map(consume, inbox_k).settle()
        degrees = [federation.GRAPH.degree(node) for node in range(6)]
        assert events == [event for degree in degrees for event in ["answer"] * degree + ["consume"]]
        assert most == max(degrees) < sum(degrees)


class TestCohort:
    def test_draws_nodes_keyed_by_seed_and_round(self) -> None:
        for round in (1, 2, 3):
            expected = sorted(philox("cohort", round).choice(4, 3, replace=False))
            assert line(round=round).cohort(3).nodes == tuple(expected)
        assert len({line(round=round).cohort(2).nodes for round in range(1, 20)}) > 3
        assert line().cohort(4).nodes == (0, 1, 2, 3)

    def test_a_cohort_of_a_cohort_holds_nodes_of_it(self) -> None:
        first = federation.fleet(6).cohort(4)
        assert set(first.cohort(2).nodes) < set(first.nodes)

    def test_absent_nodes_neither_compute_nor_talk_and_keep_their_state(self) -> None:
        fleet = line()
        there = replace(fleet, nodes=(0, 1, 3), graph=LINE.induced([0, 1, 3]))
        x_k = x_of(fleet)
        mixed_k = there.mix(there.map(lambda x: 10 * x, x_k))
        assert mixed_k.values == [25, 25, 70]
        assert [inbox.values.tolist() for inbox in there.share(x_k).values] == [[3], [2], []]
        assert there.mean(x_k).value == pytest.approx(4)
        merged_k = fleet.merge(mixed_k, x_k)
        assert merged_k.values == [25, 25, 5, 70]
        assert merged_k.nodes == fleet.nodes
        assert fleet.map(torch.neg, merged_k).values == [-25, -25, -5, -70]
        assert fleet.ledger.sent[2] == fleet.ledger.received[2] == 0

    def test_the_cohorts_graph_joins_its_nodes_only(self) -> None:
        fleet = federation.fleet(6, round=4)
        there = fleet.cohort(4)
        assert there.graph == federation.GRAPH.induced(there.nodes)
        assert there.graph != fleet.graph
        assert federation.fleet(4).cohort(2).graph is None

    @pytest.mark.parametrize("size", [0, 5])
    def test_a_cohort_of_no_size_is_an_error(self, size: int) -> None:
        with pytest.raises(ValueError, match=rf"^`size` must be between 1 and 4 nodes; got {size}. Draw fewer nodes.$"):
            line().cohort(size)

    def test_a_cohorts_values_must_be_merged_before_all_use_them(self) -> None:
        fleet = line()
        there = replace(fleet, nodes=(0, 3))
        with pytest.raises(
            ValueError, match=r"^`x_k` must hold a value of every node; got none of node 1. Merge .*\.$"
        ):
            fleet.map(torch.neg, there.map(torch.neg, x_of(fleet)))


class TestErrors:
    @pytest.mark.parametrize("engine", ["sequential", "vectorized"])
    def test_a_failing_node_is_named_with_round_and_method(self, engine: str) -> None:
        def train(x: Tensor) -> Tensor:
            return x.reshape(2)  # node 2 holds three numbers

        fleet = line(engine=federation.engine(engine, memory=4), round=5, method="fedavg")
        x_k = fleet.each([torch.rand(2), torch.rand(2), torch.rand(3), torch.rand(2)])
        with pytest.raises(
            NodeError,
            match=r"^node 2 failed in 'train' of fedavg, round 5: RuntimeError: .* \(argument shapes \[\(3,\)\]\)$",
        ) as caught:
            fleet.map(train, x_k).settle()
        assert isinstance(caught.value.__cause__, RuntimeError)

    def test_a_failing_answer_names_the_node_that_should_have_given_it(self) -> None:
        fleet = line()
        with pytest.raises(NodeError, match=r"^node 2 failed in .*lambda.* of a method, round 1: .*"):
            fleet.ask(lambda q, x: q.reshape(x.shape), fleet.everywhere(torch.rand(3)), fleet.each(shapes())).settle()

    def test_a_failing_draw_is_named_too(self) -> None:
        with pytest.raises(NodeError, match=r"^node 0 failed in .* of local, round 1: ValueError: high <= 0 .*"):
            line(method="local").draw(lambda rng: rng.integers(0), purpose="p")

    def test_what_fails_only_together_names_them_all(self) -> None:
        fleet = line(engine=vectorized(memory=4))
        with pytest.raises(NodeError, match=r"^one of nodes \[0, 1, 2, 3\] failed in .*"):
            fleet.map(lambda x: x if x > 0 else -x, x_of(fleet)).settle()

    @pytest.mark.parametrize(
        "talk",
        [
            lambda fleet: fleet.mix(x_of(fleet)),
            lambda fleet: fleet.share(x_of(fleet)),
            lambda fleet: fleet.ask(torch.add, x_of(fleet), x_of(fleet)),
        ],
    )
    def test_neighbours_need_a_topology(self, talk: Callable[[Fleet], object]) -> None:
        with pytest.raises(
            ValueError, match=r"^`topology` must be given for dfedavg; got none. Choose one, such as .*$"
        ):
            talk(line(graph=None, method="dfedavg"))

    @pytest.mark.parametrize(
        "verb",
        [
            lambda fleet, x: fleet.map(torch.neg, x),
            lambda fleet, x: fleet.draw(lambda rng, x: x, x, purpose="p"),
            lambda fleet, x: fleet.mean(x),
            lambda fleet, x: fleet.mean(x_of(fleet), x),
            lambda fleet, x: fleet.gather(x),
            lambda fleet, x: fleet.mix(x),
            lambda fleet, x: fleet.share(x),
            lambda fleet, x: fleet.ask(torch.add, x_of(fleet), x),
        ],
    )
    def test_a_central_is_no_each(self, verb: Callable[[Fleet, object], object]) -> None:
        with pytest.raises(TypeError, match=r"^`x_k` must be of type Each; got Central. Broadcast a Central first.$"):
            verb(line(), Central(torch.tensor(1.0)))

    def test_an_each_is_no_central(self) -> None:
        fleet = line()
        for verb in (fleet.broadcast, lambda x: fleet.at_server(torch.neg, x)):
            with pytest.raises(
                TypeError, match=r"^`x` must be of type Central; got Each. Take the mean or gather .*\.$"
            ):
                verb(x_of(fleet))


def shapes() -> list[Tensor]:
    return [torch.rand(3), torch.rand(3, 1), torch.rand(2), torch.rand(3)]


def test_every_verb_is_in_the_table_of_the_contract() -> None:
    table = inspect.getdoc(inspect.getmodule(Fleet)) or ""
    verbs = {name for name, _ in inspect.getmembers(Fleet, inspect.isfunction) if not name.startswith("_")}
    entry = {"each", "of_here", "rng"}  # what experiments and engines use
    assert {name for name in verbs - entry if f"{name}(" not in table and f"`{name}`" not in table} == set()
