"""Faults in whole runs: chosen by name, chained, of one's own, resumed; the same record everywhere; what cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fedtangent import cli
from fedtangent.catalog import names
from fedtangent.experiments.dry_run import dry_run
from fedtangent.experiments.run import Result, run
from fedtangent.experiments.setup import setup
from fedtangent.faults.dropout import dropout
from fedtangent.faults.links import links
from fedtangent.transports.threads import threads
from tests.experiments.test_resume import begun, same
from tests.experiments.tiny import OPTIONS, network, timeless, tiny
from tests.often import often

SEED = 64  # of dropout 0.3, with which 4, 3, 4 and 4 of five nodes are there
NEED_ALL = ("afl", "central", "fedfisher", "relaysgd")
FAULTY = [name for name in names("methods") if name not in NEED_ALL]
FEW: dict[str, dict[str, Any]] = {
    "fedkfac": {"guard": False},
    "fedpm": {"guard": False},
    "sumntk": {"columns": 1},
    "fedpart": {"rounds": 4},
}
FEW |= {name: {"participation": 1.0, **FEW.get(name, {})} for name in OPTIONS if "participation" in OPTIONS[name]}
OWN = '''"""Mine: a node sleeps by turns."""

from fedtangent.federation import Fault, Missing


def mine(*, first: int = 0):
    """Sleep.

    Args:
        first: The node that sleeps in round 1.
    """
    return Fault(lambda planned, draw: Missing(nodes=[(first + planned.round - 1) % len(planned.rows)]))
'''


def asked(method: str, **change: Any) -> Any:
    """Rounds of which some lack up to three nodes of five, by method; float64."""
    usual: dict[str, Any] = {"fault": "dropout", "absent": 0.3, "rounds": 3, "seed": SEED, "dtype": "float64"}
    return tiny(method, **{**usual, **FEW.get(method, {}), **change})


def equal(found: Result, expected: Result, tolerance: float) -> None:
    for key, w in expected.weights.items():
        torch.testing.assert_close(found.weights[key], w, rtol=tolerance, atol=tolerance)
    for one, other in zip(timeless(found.rounds), timeless(expected.rounds), strict=True):
        assert one.keys() == other.keys()
        for key in ("present", "links", "skipped", "sent_bytes", "accuracy"):
            assert one.get(key) == other.get(key)


@pytest.mark.few(2)
@pytest.mark.parametrize("method", often(FAULTY, ["dfedkfac", "fedavg", "fedpart", "ntkdfl"]))
def test_every_method_gives_one_record_under_faults(method: str) -> None:
    first = run(asked(method, engine="sequential"))
    present = [entry["present"] for entry in first.rounds]
    assert present == [4, 3, 4, 4][: len(present)]
    talks = setup(asked(method)).method.traits.neighbours
    assert all(("links" in entry) == talks for entry in first.rounds)
    plain = run(clean(method))
    assert first.rounds[-1]["multiply_adds"] < plain.rounds[-1]["multiply_adds"]
    assert first.rounds[-1]["sent_bytes"] < plain.rounds[-1]["sent_bytes"] or method == "local"
    equal(run(asked(method, engine="vectorized")), first, 1e-9)
    apart = threads(range(5), lambda transport: run(setup(asked(method, engine="sequential"), lambda rows: transport)))
    same(apart[0], first)


def clean(method: str) -> Any:
    usual: dict[str, Any] = {"rounds": 3, "seed": SEED, "dtype": "float64", "engine": "sequential"}
    return tiny(method, **{**usual, **FEW.get(method, {})})


@pytest.mark.few(2)
@pytest.mark.parametrize("method", ["fedavg", "dfedavg", "dfedkfac", "ntkdfl", "scaffold"])
def test_nothing_that_fails_is_no_fault_to_the_bit(method: str) -> None:
    plain = run(clean(method))
    found = run(asked(method, engine="sequential", fault="dropout,links", absent=0.0, failing=0.0, quorum=1.0))
    for entry in found.rounds:
        assert (entry.pop("present"), entry.pop("skipped")) == (5, False)
        entry.pop("links", None)
    same(found, plain)


@pytest.mark.parametrize("method", ["fedavg", "dfedkfac", "fedpart", "ntkfl"])
def test_with_nobody_there_the_first_weights_stay(method: str) -> None:
    found = run(asked(method, absent=1.0))
    assert all((entry["present"], entry["skipped"], entry["sent_bytes"]) == (0, True, 0) for entry in found.rounds)
    assert all(entry["multiply_adds"] == 0 for entry in found.rounds)
    first = setup(asked(method)).task.w_0
    for name, w in found.weights.items():  # of neighbours their mean, which rounds
        torch.testing.assert_close(w, first[name], rtol=1e-15, atol=0.0)


def test_without_a_link_every_node_works_alone() -> None:
    options: dict[str, Any] = {"epochs": 1, "batch": 4, "momentum": 0.0}
    found = run(tiny("dfedavg", rounds=3, seed=SEED, dtype="float64", fault="links", failing=1.0, **options))
    alone = run(tiny("local", rounds=3, seed=SEED, dtype="float64", **options))
    assert all((entry["present"], entry["links"], entry["sent_bytes"]) == (5, 0, 0) for entry in found.rounds)
    for name, w in alone.weights.items():
        torch.testing.assert_close(found.weights[name], w, rtol=1e-12, atol=1e-12)


def test_a_round_below_the_quorum_is_skipped_and_on_the_record() -> None:
    found = run(asked("dfedavg", quorum=0.7))
    assert [(entry["present"], entry["skipped"]) for entry in found.rounds] == [(4, False), (3, True), (4, False)]
    first, second, _ = found.rounds
    assert first["accuracy"] == second["accuracy"]
    assert first["sent_bytes"] == second["sent_bytes"]
    assert first["multiply_adds"] == second["multiply_adds"]


def test_faults_together_take_away_what_each_does_in_any_order() -> None:
    both = {"failing": 0.3, "rounds": 4}
    found = run(asked("dfedkfac", fault="dropout,links", **both))
    same(run(asked("dfedkfac", fault="links, dropout", **both)), found)
    same(run(asked("dfedkfac", fault=[links, dropout], **both)), found)
    assert [entry["present"] for entry in found.rounds] == [4, 3, 4, 4]
    alone = run(asked("dfedkfac", rounds=4))
    assert [a["links"] >= b["links"] for a, b in zip(alone.rounds, found.rounds, strict=True)] == [True] * 4
    assert found.rounds[-1]["sent_bytes"] < alone.rounds[-1]["sent_bytes"]


@pytest.mark.few(2)
@pytest.mark.parametrize("method", ["scaffold", "moon", "dfedkfac", "fedpart"])
def test_a_run_goes_on_to_the_same_record(method: str, tmp_path: Path) -> None:
    rounds = {} if method == "fedpart" else {"rounds": 4}
    whole = run(asked(method, **rounds))
    begun(asked(method, **rounds), tmp_path / "run", after=2)
    same(run(asked(method, **rounds), tmp_path / "run", resume=True), whole)


def test_liars_may_be_absent_too_and_are_not_measured() -> None:
    found = run(asked("dfedavg", attack="sign_flip", who=(1,), rule="clipping"))
    assert [entry["present"] for entry in found.rounds] == [4, 3, 4]
    assert all(len(entry["node_accuracy"]) == 4 for entry in found.rounds)
    assert all(torch.isfinite(w).all() for w in found.weights.values())


def test_statistics_of_batch_norm_are_of_all_clients() -> None:
    first, *rest = network()
    found = run(asked("fedavg", model=nn.Sequential(first, nn.BatchNorm1d(6), *rest), absent=0.9, rounds=2))
    assert [entry["skipped"] for entry in found.rounds] == [True, False]
    assert all(torch.isfinite(w).all() for w in found.weights.values())


def test_an_absent_node_s_place_on_the_record_is_empty() -> None:
    found = run(asked("dfedkfac"))
    for entry in found.rounds:
        assert len(entry["choice"]) == 5
        assert entry["choice"].count(None) == 5 - entry["present"]
        assert entry["failed"] == 0


def test_the_manifest_tells_the_faults_and_their_files(tmp_path: Path) -> None:
    found = run(asked("fedavg", fault="dropout,stragglers", jitter=0.1, quorum=0.2), tmp_path).manifest
    told = found["experiment"]
    assert told["fault"] == "dropout+stragglers"
    assert told["fault_options"] == {
        "absent": 0.3,
        "deadline": 2.0,
        "work": True,
        "spread": 0.5,
        "jitter": 0.1,
        "quorum": 0.2,
    }
    assert [found["sources"][part]["name"] for part in ("fault", "fault 2")] == ["dropout.py", "stragglers.py"]
    assert "fault" not in run(clean("fedavg")).manifest["experiment"]


def test_a_fault_of_ones_own_in_a_folder_with_a_space(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    path = folder / "mine.py"
    path.write_text(OWN)
    found = run(tiny("dfedavg", fault=str(path), first=2, rounds=4))
    assert [entry["present"] for entry in found.rounds] == [4] * 4
    assert found.manifest["experiment"]["fault_options"] == {"first": 2, "quorum": 0.0}


@pytest.mark.parametrize("method", ["fedavg", "dfedkfac", "fedkfac"])
def test_a_dry_run_tells_the_bytes_of_links_that_hold(method: str) -> None:
    """To the byte, but for what a node gets once, in the first round in which it is there."""
    options = {"fault": "dropout", "absent": 0.3, "rounds": 5, "participation": 1.0, "quorum": 0.7}
    if method == "dfedkfac":
        options |= {"fault": "dropout,links", "failing": 0.2}
        del options["participation"]
    plan, sent = (
        dry_run(setup(asked(method, **options))),
        [e["sent_bytes"] for e in run(asked(method, **options)).rounds],
    )
    assert plan.first_round_bytes == sent[0]
    assert abs(plan.total_bytes - sent[-1]) <= (0.005 * sent[-1] if method == "fedkfac" else 0)
    assert abs(plan.later_round_bytes - (plan.total_bytes - sent[0]) / 4) <= 1


def test_from_the_command_line_with_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "dfedavg", "--rounds", "2", "--nodes", "8", "--epochs", "1", "--fault", "dropout,links"]
    words += ["--absent", "0.5", "--fault.failing", "0.2", "--quorum", "0.5", "--out", str(tmp_path / "run")]
    assert cli.main(words) == 0
    told = capsys.readouterr()
    entries = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    mean = sum(entry["present"] for entry in entries) / 2
    assert f"{entries[0]['present']} present" in told.err
    note = f"dfedavg: {mean:g} of 8 nodes were present in a mean round, and"
    assert note in " ".join(told.out.split())
    assert cli.main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "page.html")]) == 0
    assert note in (tmp_path / "page.html").read_text()
    again = ["run", "dfedavg", "--config", str(tmp_path / "run"), "--out", str(tmp_path / "again")]
    assert cli.main(again) == 0
    assert timeless([json.loads(line) for line in (tmp_path / "again" / "rounds.jsonl").read_text().splitlines()]) == (
        timeless(entries)
    )


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        (
            "central",
            {"fault": "dropout"},
            "`fault` must be left out for central, which asks every node once, in round 1",
        ),
        (
            "afl",
            {"fault": [links]},
            "`fault` must be left out for afl, which asks every node once, in round 1; got 'links'",
        ),
        ("fedavg", {"fault": "sleep"}, "`fault` must be one of dropout, links, stragglers; got 'sleep'. Or give the"),
        ("fedavg", {"fault": "links,links"}, "`fault` must name each once; got links, links. Leave the second out."),
        ("fedavg", {"fault": 3}, "`fault` must be names or functions; got int. Give a name."),
        ("fedavg", {"fault": "dropout", "absent": 2.0}, "`absent` must be from 0 to 1; got 2.0."),
        (
            "fedavg",
            {"fault": "dropout", "quorum": 1.5},
            "`quorum` must be from 0 to 1; got 1.5. Use 0.5 for half of the",
        ),
        (
            "fedavg",
            {"fault": "dropout", "failing": 0.1},
            "`failing` must be a setting or an option of a chosen part; got",
        ),
        ("fedavg", {"quorum": 0.5}, "`quorum` must be a setting or an option of a chosen part; got an unknown name."),
        ("fedavg", {"fault_options": {"absent": 0.1}}, "`fault_options` must be left out without fault; got absent."),
        (
            "fedavg",
            {"fault": [lambda: 3]},
            "`fault` must give a Fault; got int from <lambda>. Return fedtangent.federation",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(method: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        setup(tiny(method, **given))
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith(".")
