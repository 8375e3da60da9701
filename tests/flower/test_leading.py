"""The roll of the sites and the end of a run, without Flower: every site once, of one federation; all are heard."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from fedtangent.flower import leading
from fedtangent.flower.leading import Unfinished
from fedtangent.flower.orders import Answer
from fedtangent.sites import commands
from tests.sites import processes

SITES = ("berlin", "paris", "rome")


def says(site: str, **change: Any) -> Answer:
    return Answer({"federation": "hearts", "site": site, "sites": [*SITES], "served": False, **change})


class Played:
    """SuperNodes whose answers are written down; they come with the second look at the earliest.

    Args:
        roll: What each answers to the roll.
        end: What each says in the end, from its number and how often it was told to begin.
        away: When a node is not there, or was started again: by its number, since when it is there in every look.
    """

    def __init__(
        self,
        roll: Sequence[Answer | None],
        end: Callable[[int, int], Answer | None] | None = None,
        away: Mapping[int, Sequence[str | None]] | None = None,
    ) -> None:
        self.roll, self.end = roll, end or (lambda node, time: Answer({"site": SITES[node], "rounds": 4}))
        self.asked: list[tuple[str, int, str]] = []
        self.looks: dict[str, int] = {}
        self.away = {node: iter(since) for node, since in (away or {}).items()}
        self.since: dict[int, str | None] = dict.fromkeys(range(len(roll)), "first")

    def there(self) -> Mapping[int, str]:
        begun = any(kind == "train" for kind, _, _ in self.asked)
        for node, since in self.away.items() if begun else ():
            self.since[node] = next(since, self.since[node])
        return {node: since for node, since in self.since.items() if since is not None}

    def ask(self, kind: str, node: int, told: str) -> str:
        self.asked.append((kind, node, told))
        return str(len(self.asked) - 1)

    def answers(self, asked: Collection[str]) -> dict[str, Answer]:
        found = {}
        for number in asked:
            kind, node, _ = self.asked[int(number)]
            self.looks[number] = self.looks.get(number, 0) + 1
            answer = self.roll[node] if kind == "query" else self.end(node, self.told(node))
            if answer is not None and self.looks[number] > 1:
                found[number] = answer
        return found

    def told(self, node: int) -> int:
        """How often a node was told to begin."""
        return [kind for kind, other, _ in self.asked if other == node].count("train")


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look takes a second of a clock that nobody waits for."""
    now = [0.0]
    monkeypatch.setattr(leading.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(leading.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))


def config(wait: int = 5, **change: Any) -> dict[str, Any]:
    options = f"--degree 2 --rounds 4 --wait {wait} --resume"
    return {"kit": "", "leader": "", "method": "dfedavg", "options": options, **change}


def test_every_site_is_told_who_leads_and_all_are_heard(capsys: pytest.CaptureFixture[str]) -> None:
    nodes = Played([says("rome"), says("berlin"), says("paris")])
    leading.lead(nodes, config())
    assert [(kind, node) for kind, node, _ in nodes.asked] == [
        *(("query", node) for node in range(3)),
        *(("train", node) for node in (1, 2, 0)),  # in the sites' order
    ]
    order = json.loads(nodes.asked[-1][2])
    assert order["leader"] == "berlin" and order["how"] == {"wait": 5.0, "resume": True}
    assert order["settings"]["method"] == "dfedavg" and order["settings"]["topology_options"] == {"degree": 2}
    assert not {"dataset", "data_dir", "device"} & {*order["settings"]}
    said = capsys.readouterr().out
    assert "berlin, paris, rome are there; berlin leads dfedavg.\n" in said
    assert "rounds 4.\n" in said


def test_another_site_may_lead() -> None:
    nodes = Played(roll(*SITES))
    leading.lead(nodes, config(leader="rome"))
    assert json.loads(nodes.asked[-1][2])["leader"] == "rome"


def roll(*sites: str, **change: Any) -> list[Answer | None]:
    return [says(site, **change) for site in sites]


@pytest.mark.parametrize(
    ("answers", "told", "change"),
    [
        (roll("berlin", "rome"), "`paris` must answer within 5 seconds; got berlin, rome. Start its SuperNode", {}),
        ([], "`SuperNodes` must answer within 5 seconds; got nobody.", {}),
        ([None, None], "`SuperNodes` must answer within 5 seconds; got nobody.", {}),
        ([*roll(*SITES), None], "must answer within 5 seconds; got berlin, paris, rome.", {}),
        (roll("berlin", "rome", "rome"), "`kit` must be at one SuperNode alone; got that of rome at two.", {}),
        (
            [*roll("berlin", "paris"), says("rome", federation="minds")],
            "`kit` must be of the same federation everywhere; got hearts and, at rome, minds, or other sites.",
            {},
        ),
        (
            [*roll("berlin", "paris"), says("oslo", sites=["oslo"])],
            "`kit` must be of the same federation everywhere",
            {},
        ),
        (roll(*SITES, served=True), "`kit` must be given to the run of a federation with a server; got none.", {}),
        (roll(*SITES), "`leader` must be one of berlin, paris, rome; got 'oslo'. Choose one.", {"leader": "oslo"}),
        (
            [*roll("berlin", "paris"), Answer({}, "`kit` must be given to a SuperNode; got none.")],
            "At SuperNode 2: `kit` must be given to a SuperNode; got none.",
            {},
        ),
    ],
)
def test_a_roll_that_cannot_be_ends_the_run_before_anybody_is_told_to_begin(
    answers: list[Answer | None], told: str, change: dict[str, Any]
) -> None:
    nodes = Played(answers)
    with pytest.raises(ValueError) as error:
        leading.lead(nodes, config(**change))
    assert told in str(error.value)
    assert {kind for kind, _, _ in nodes.asked} <= {"query"}


DONE = Answer({"site": "x", "rounds": 4})
GONE = Answer({}, "Node Unavailable", lost=True)


def test_a_run_is_over_when_its_leader_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """As with a quorum, without which a leader does not end well."""
    ends = [DONE, Answer({}, "`data` must be.\x1b[2J"), None]
    leading.lead(Played(roll(*SITES), lambda node, time: ends[node]), config())
    said = capsys.readouterr().out
    assert "berlin is done: rounds 4.\n" in said
    assert "At paris: `data` must be." in said and "\x1b" not in said
    assert "Nothing was heard of the end at rome.\n" in said
    assert leading.time.monotonic() < 60


def test_a_leader_that_fails_fails_the_run_with_what_all_say() -> None:
    ends = [Answer({}, "too few sites."), Answer({}, "`data` must be."), None]
    nodes = Played(roll(*SITES), lambda node, time: ends[node])
    with pytest.raises(Unfinished, match=r"^At berlin: too few sites\. At paris: `data` must be\.$"):
        leading.lead(nodes, config())
    assert leading.time.monotonic() < 60


def test_a_leader_that_is_lost_fails_the_run() -> None:
    nodes = Played(roll(*SITES), lambda node, time: DONE if node else GONE)
    with pytest.raises(Unfinished, match=r"^At berlin: Node Unavailable$"):
        leading.lead(nodes, config())
    assert nodes.told(0) == 1


@pytest.mark.parametrize(
    "away",
    [
        ["first", "first", None, None, "then"],  # missed by Flower, which answers for it
        ["first", "first", "then"],  # back before Flower has missed it
    ],
)
def test_a_site_whose_supernode_comes_back_is_told_again(
    away: list[str | None], capsys: pytest.CaptureFixture[str]
) -> None:
    def end(node: int, time: int) -> Answer | None:
        if node == 2 and time == 1:
            return GONE if None in away else None
        return DONE if node == 2 or nodes.told(2) > 1 else None

    nodes = Played(roll(*SITES), end, {2: away})
    leading.lead(nodes, config())
    assert [nodes.told(node) for node in range(3)] == [1, 1, 2]
    assert nodes.asked[-1][2] == nodes.asked[-2][2]
    said = capsys.readouterr().out
    assert "rome is lost. It is told to take part again when its SuperNode is back.\n" in said
    assert "rome is connected again, and told to take part.\n" in said
    assert "rome is done: rounds 4.\n" in said


def served(place: Path) -> dict[str, Any]:
    processes.kits(place, True, SITES)
    kit = str(place / "kits" / "server")
    return config(kit=kit, method="fedavg", options="--rounds 4 --wait 5")


@pytest.mark.parametrize(("code", "fails"), [(0, False), (1, True)])
def test_a_server_leads_by_its_own_command(
    code: int, fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    @wraps(commands.server)
    def server(settings: dict[str, Any], kit: str, **how: Any) -> int:
        asked.append((settings, kit, how))
        return code

    monkeypatch.setattr(commands, "server", server)
    nodes, told = Played(roll(*SITES, served=True)), served(tmp_path)
    if fails:
        with pytest.raises(Unfinished, match="The run has ended before its time, as is told above"):
            leading.lead(nodes, told)
    else:
        leading.lead(nodes, told)
    assert asked == [({"method": "fedavg", "rounds": 4}, told["kit"], {"wait": 5.0})]
    assert json.loads(nodes.asked[-1][2]) == {"leader": "server", "settings": {}, "how": {}}


def test_a_server_leads_sites_of_its_own_kits_alone(tmp_path: Path) -> None:
    told = served(tmp_path)
    for answers in (roll(*SITES), roll(*SITES, served=True, federation="minds")):
        with pytest.raises(ValueError, match="`kit` must be of the same federation everywhere; got hearts"):
            leading.lead(Played(answers), told)
    with pytest.raises(ValueError, match="`leader` must be left out where a server leads; got 'rome'"):
        leading.lead(Played(roll(*SITES, served=True)), {**told, "leader": "rome"})
    with pytest.raises(ValueError, match="`kit` must be the server's in a run; got that of rome"):
        leading.lead(Played(roll(*SITES)), {**told, "kit": str(tmp_path / "kits" / "rome")})
