"""Sums at the server, what they refuse, and questions that do not repeat what was said: examples worked by hand."""

import pytest
import torch
from torch import Tensor

from fedtangent.federation import SERVER, Central, Fleet, Graph
from tests import tiny_federation as federation
from tests.tiny_federation import assert_same

LINE = Graph([(0, 1), (1, 2)], 4)  # and node 3 alone


def line(count: int = 4) -> Fleet:
    return federation.fleet(count, graph=LINE if count == 4 else None)


def numbers(*values: float) -> list[Tensor]:
    return [torch.tensor(value, dtype=torch.float64) for value in values]


class TestSum:
    def test_adds_trees_leaf_by_leaf_and_books_every_message(self) -> None:
        fleet = line()
        tree_k = fleet.map(lambda x: {"w": torch.stack([x, -x]), "n": torch.tensor(3)}, fleet.each(numbers(2, 3, 5, 7)))
        total, refused = fleet.sum(tree_k)
        assert_same(total.value, {"w": torch.tensor([17.0, -17.0]).double(), "n": torch.tensor(12)})
        assert refused.value == 0
        assert dict(fleet.ledger.sent) == dict.fromkeys(range(4), 16 + 8)
        assert dict(fleet.ledger.received) == {SERVER: 4 * 24}

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
    def test_a_number_that_is_not_finite_has_its_whole_message_refused(self, bad: float) -> None:
        fleet = line()
        sent = [(one, torch.ones(2)) for one in numbers(2, 3, bad, 7)]
        total, refused = fleet.sum(fleet.each(sent))
        assert_same(total.value, (torch.tensor(12.0).double(), torch.full((2,), 3.0)))
        assert refused.value == 1
        assert dict(fleet.ledger.sent) == dict.fromkeys((0, 1, 3), 16)  # its sender saw it

    @pytest.mark.parametrize(
        "odd",
        [torch.ones(3), torch.ones(1, 2), torch.tensor(1.0), torch.ones(2).double(), torch.ones(2, dtype=torch.int64)],
        ids=["length", "axes", "scalar", "precision", "integers"],
    )
    @pytest.mark.parametrize("place", [0, 2, 3])
    def test_a_message_of_another_form_than_most_is_refused(self, odd: Tensor, place: int) -> None:
        fleet = line()
        values = [torch.full((2,), float(n)) for n in (2, 3, 5, 7)]
        values[place] = odd
        total, refused = fleet.sum(fleet.each(values))
        assert total.value.tolist() == [17 - (2, 3, 5, 7)[place]] * 2
        assert refused.value == 1

    def test_other_names_are_another_form(self) -> None:
        fleet = line()
        one = torch.ones(1)
        total, refused = fleet.sum(fleet.each([{"a": one}, {"b": one}, {"a": one, "b": one}, {"a": one}]))
        assert_same(total.value, {"a": torch.full((1,), 2.0)})
        assert refused.value == 2

    def test_counts_of_a_form_and_of_numbers_are_refused_together(self) -> None:
        fleet = line(5)
        values = [torch.ones(2), torch.ones(3), torch.tensor([1.0, torch.nan]), torch.ones(2), torch.ones(2)]
        total, refused = fleet.sum(fleet.each(values))
        assert (total.value.tolist(), refused.value) == ([3.0, 3.0], 2)

    def test_nothing_is_the_sum_of_nothing(self) -> None:
        """Of a model none of whose layers sees the data itself."""
        fleet = line()
        total, refused = fleet.sum(fleet.everywhere({}))
        assert (total.value, refused.value) == ({}, 0)

    def test_the_messages_are_left_alone(self) -> None:
        fleet = line()
        values = numbers(2, 3, 5, 7)
        fleet.sum(fleet.each(values))
        assert values == numbers(2, 3, 5, 7)

    def test_a_cohorts_sum_is_of_its_nodes(self) -> None:
        fleet = line().cohort(3)
        total, _ = fleet.sum(fleet.each(numbers(2, 3, 5)))
        assert total.value == 10
        assert set(fleet.ledger.sent) == set(fleet.nodes)

    def test_no_message_that_is_finite_is_an_error(self) -> None:
        fleet = line()
        with pytest.raises(
            ValueError,
            match=r"^`x_k` must have a finite message to sum; got none of 4 in round 1. Use smaller steps, .*\.$",
        ):
            fleet.sum(fleet.each(numbers(*[torch.nan] * 4)))

    def test_a_central_is_no_each(self) -> None:
        with pytest.raises(TypeError, match=r"^`x_k` must be of type Each; got Central. Broadcast a Central first.$"):
            line().sum(Central(torch.tensor(1.0)))  # type: ignore[arg-type]


class TestAskSum:
    def test_is_what_the_neighbours_answers_add_up_to(self) -> None:
        """On the path 0 - 1 - 2, and 3 alone: x_i y_j summed over the neighbours j."""
        fleet = line()
        total_k, refused_k = fleet.ask_sum(
            lambda x, y: {"xy": x * y, "n": torch.tensor(1)},
            fleet.each(numbers(2, 3, 5, 7)),
            fleet.each(numbers(1, 10, 100, 9)),
        ).unzip(2)
        assert [float(total["xy"]) for total in total_k.values] == [2 * 10, 3 * 101, 5 * 10, 0]
        assert [int(total["n"]) for total in total_k.values] == [1, 2, 1, 0]
        assert [int(refused) for refused in refused_k.values] == [0] * 4
        assert dict(fleet.ledger.sent) == {0: 8 + 16, 1: 2 * (8 + 16), 2: 8 + 16}

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
    def test_an_answer_that_is_not_finite_is_refused_whole_and_counted(self, bad: float) -> None:
        fleet = line()
        y_k = fleet.each([(torch.ones(2, 3) * one, torch.tensor(4.0)) for one in (2.0, 3.0, bad, 7.0)])
        total_k, refused_k = fleet.ask_sum(lambda _, y: y, fleet.everywhere(()), y_k).unzip(2)
        assert_same(total_k.values[1], (torch.full((2, 3), 2.0), torch.tensor(4.0)))
        assert_same(total_k.values[2], (torch.full((2, 3), 3.0), torch.tensor(4.0)))
        assert [int(refused) for refused in refused_k.values] == [0, 1, 0, 0]
