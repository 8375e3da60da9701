"""Calling: who takes part in a sitting and who is left out, when a run ends, and which masked sums may follow which."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fedtangent.sites import calling, joining, sums_sent
from fedtangent.sites.calling import Calling, Over, unreachable
from fedtangent.sites.kit import Kit
from fedtangent.sites.sums_sent import SumsSent, may_follow
from fedtangent.transports._lines import Gone

SITES = ["a", "b", "c", "d", "e", "f", "g"]


class Doors:
    """Those who are there."""

    def __init__(self, there: list[str]) -> None:
        self.others, self.now = [*SITES], there

    def lasting(self) -> dict[str, Any]:
        return dict.fromkeys(self.now)

    def there(self) -> dict[str, Any]:
        return self.lasting()

    def check(self) -> None:
        """Nobody shows another certificate."""

    def missing(self, name: str, wait: float) -> Exception:
        return ValueError(f"{name} is missing")


class Quiet:
    """Lines on which nobody says anything."""

    def __init__(self, _: Kit) -> None:
        self.met: set[int] = set()

    def meet(self, connections: dict[int, Any]) -> None:
        self.met |= {*connections}

    def hear(self, seconds: float) -> None:
        """Nothing."""


class Ending(Quiet):
    """Lines on which a site says that all is over for it, before who leads has said anything."""

    def hear(self, seconds: float, leader: int | None = None) -> None:
        raise Gone("b has failed.", "b", final=True, sender="b")

    def abort(self, *told: Any, final: bool) -> None:
        said.append([*told, final, {*self.met}])


said: list[list[Any]] = []


def own(name: str = "server") -> Kit:
    book = dict.fromkeys((["server"] if name == "server" else []) + SITES)
    return Kit(Path(), "test", name, book, datetime.now(UTC))


def caller(there: list[str], quorum: float, told: list[str] | None = None, name: str = "server") -> Calling:
    doors: Any = Doors(there)
    doors.others = [other for other in SITES if other != name]
    return Calling(own(name), doors, 0.0, 0.0, quorum, ([] if told is None else told).append)


def test_all_must_be_there_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "lines", Quiet)
    assert caller(SITES, 0.5).everybody() == ["server", *SITES]
    with pytest.raises(ValueError, match="c is missing"):
        caller([name for name in SITES if name != "c"], 0.5).everybody()


def test_who_ends_because_another_does_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the leader, who may hear it first, would wait for it."""
    monkeypatch.setattr(joining, "lines", Ending)
    said.clear()
    doors: Any = Doors(["a", "b"])
    with pytest.raises(Over, match=r"^b has failed\.$"):
        calling.heard(own("c"), doors, 1.0, None)
    assert said == [["b has failed.", "b", True, {own("c").number("a"), own("c").number("b")}]]


@pytest.mark.parametrize(
    ("there", "quorum", "enough"), [(5, 0.7, True), (4, 0.7, False), (7, 1.0, True), (6, 1.0, False)]
)
def test_a_quorum(there: int, quorum: float, enough: bool) -> None:
    told: list[str] = []
    found = caller(SITES[:there], quorum, told)
    if enough:
        assert found.again(None) == ["server", *SITES[:there]]
        assert told == ([] if there == 7 else ["Going on without f, g, with 5 of 7 sites."])
    else:
        with pytest.raises(Over, match=r"was waited for, 0 seconds long, and too few sites are there without it\.$"):
            found.again(None)


def test_a_leader_that_is_a_site_counts() -> None:
    assert caller(["b", "c"], 3 / 7, name="a").again(None) == ["a", "b", "c"]
    with pytest.raises(Over):
        caller(["b", "c"], 4 / 7, name="a").again(None)


def test_after_masked_sums_as_many_are_left_out_as_hide_one_another() -> None:
    found = caller([name for name in SITES if name != "c"], 0.5).again(SITES)
    assert found == ["server", "a", "b", "d", "e"]  # without c, and so without f and g
    with pytest.raises(Over, match=r"c was waited for, .*without it they would tell what it has sent"):
        caller(["a", "b", "d", "e"], 0.5).again(SITES[:5])
    assert caller(SITES[:5], 0.5).again(SITES[:5]) == ["server", *SITES[:5]]
    assert caller(SITES, 0.5).again(SITES[:5]) == ["server", *SITES[:5]]  # who is back waits for the next round


def test_no_two_sums_of_a_round_differ_by_fewer_than_three_sites() -> None:
    """Over all chains of sets that may follow one another: every difference, and every set, has three sites or more."""
    sets = [frozenset(some) for size in range(1, 8) for some in itertools.combinations(SITES, size)]
    for before, after in itertools.product(sets, sets):
        if may_follow(after, before) and after != before:
            assert after < before and len(after) >= 3 and len(before - after) >= 3
    assert may_follow(SITES[:3], SITES[:6])
    assert not may_follow(SITES[:4], SITES[:6])
    assert not may_follow(SITES[:6], SITES[:3])


def test_what_was_sent_is_remembered_until_its_round_is_over(tmp_path: Path) -> None:
    first = SumsSent(tmp_path, SITES[:5], 4)
    assert sums_sent.last(tmp_path, 5) is None
    SumsSent(tmp_path, SITES[:4], 4)  # nothing was sent
    first.sending()
    assert sums_sent.last(tmp_path, 5) == SITES[:5]
    SumsSent(tmp_path, SITES[:5], 4)
    with pytest.raises(ValueError, match=r"`secure_sums` must hide what every site has sent in round 5; got a second"):
        SumsSent(tmp_path, SITES[:4], 4)
    SumsSent(tmp_path, SITES[:4], 5)  # from other weights
    first.over(5)
    first.sending()
    assert sums_sent.last(tmp_path, 6) == SITES[:5]
    assert sums_sent.last(tmp_path, 5) is None
    (tmp_path / sums_sent.NAME).write_text("[")
    with pytest.raises(ValueError, match=r"`\.sums` must be as its run wrote it"):
        SumsSent(tmp_path, SITES[:4], 5)


def test_those_who_cannot_reach_one_another() -> None:
    kit = own("a")
    assert unreachable(kit, {}) == []
    assert unreachable(kit, {"b": ["c"]}) == ["c"]
    assert unreachable(kit, {"b": ["c"], "c": ["b", "d"], "d": ["c"]}) == ["c"]
    assert unreachable(kit, {"a": ["b"]}) == ["b"]  # the leader stays


def test_a_site_that_breaks_off_a_round_again_and_again_is_left_out_or_ends_the_run() -> None:
    found = caller(SITES, 0.5)
    for _ in range(calling._MOST):
        found.lost(Gone("b sent no frame of version 1.", "b"), {})
    assert found.again(None) == ["server", *(name for name in SITES if name != "b")]
    assert found.back(["server"]) == "a"
    assert found.back(["server", *SITES[:1], *SITES[2:]]) is None  # b may call as it likes
    strict = caller(SITES, 1.0)
    for _ in range(calling._MOST - 1):
        strict.lost(Gone("b sent no frame of version 1.", "b"), {})
    with pytest.raises(Over, match="b sent no frame of version 1"):
        strict.lost(Gone("b sent no frame of version 1.", "b"), {})


def test_a_site_that_cannot_reach_another_is_left_out_at_the_third_time() -> None:
    found = caller(SITES, 0.5)
    for times in range(3):
        assert found.again(None) == ["server", *SITES], times
        found.lost(Gone("c cannot reach f."), {"c": ["f"]})
    assert found.again(None) == ["server", *(name for name in SITES if name != "f")]


def test_a_round_that_is_over_wipes_the_slate() -> None:
    found = caller(SITES, 1.0)
    for _ in range(3 * calling._MOST):
        found.lost(Gone("b has ended.", "b"), {})
        found.progress()


def test_a_site_that_fails_and_says_so_ends_a_run_that_needs_it() -> None:
    with pytest.raises(Over, match="b has failed"):
        caller(SITES, 1.0).lost(Gone("b has failed, and says why there.", "b", True, "b"), {})
    caller(SITES, 0.5).lost(Gone("b has failed, and says why there.", "b", True, "b"), {})


def test_a_run_that_breaks_off_for_no_known_reason_ends_too() -> None:
    found = caller(SITES, 0.5)
    with pytest.raises(Over):
        for _ in range(calling._MOST_IN_ALL):
            found.lost(Gone("a site sent no part of the sum."), {})
