"""A federation of processes on loopback: the record of one process, after kills too; what is wrong is refused."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from fedtangent.federation import Fault, Missing
from tests.experiments import tiny
from tests.sites import federations, processes
from tests.sites.federations import begun, ended, expected, leader_of, words
from tests.sites.processes import FIVE, NAMES

SLOW = pytest.mark.slow


@pytest.fixture
def place(tmp_path: Path) -> Path:
    processes.files(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("fedavg", NAMES),
        pytest.param("fedkfac", NAMES, marks=SLOW),
        ("dfedavg", FIVE),
        pytest.param("dfedkfac", FIVE, marks=SLOW),
        pytest.param("ntkdfl", FIVE, marks=SLOW),
    ],
)
def test_the_record_is_that_of_one_process(method: str, names: tuple[str, ...], tmp_path: Path) -> None:
    said = ended(begun(tmp_path, method, names=names), 0)
    assert processes.rounds(tmp_path / "run") == expected(method, names=names)
    agreed = [json.loads(path.read_text()) for path in tmp_path.rglob(".agreed.json")]
    assert len(agreed) == len(said) and all(one == agreed[0] for one in agreed)
    assert {*agreed[0]["signatures"]} == {*said}
    assert agreed[0]["terms"]["settings"]["method"] == method
    assert f"{method} by {leader_of(method)} on hearts, {len(names)} sites, 30 rows" in said["rome"]
    assert "Exposure" in said["rome"]
    assert "rome sends to " in said["rome"]


@SLOW
@pytest.mark.parametrize("method", ["fedavg", pytest.param("dfedavg", marks=SLOW)])
def test_metrics_and_rows_that_sites_keep_back_are_as_in_one_process(method: str, tmp_path: Path) -> None:
    change = {"rounds": 9, "lr": 2.5, "validation": 0.3, "early_stop": 1, "metric": "f1,auc", "evaluate_on": "own"}
    ended(begun(tmp_path, method, "--track", "tensorboard", change=change), 0)
    got, one = processes.rounds(tmp_path / "run"), expected(method, **change)
    assert got == one and len(one) < 9
    assert all(len(entry["measures"]["auc"]["own"]["nodes"]) == 3 for entry in got)
    assert json.loads((tmp_path / "run" / "trackers.json").read_text())["tensorboard"]["rounds"] == len(one)
    assert (tmp_path / "run" / "report.html").is_file()  # of the leader, who tracks


@SLOW
def test_a_site_that_does_not_come_back_ends_all_with_one_sentence_and_resume_goes_on(tmp_path: Path) -> None:
    first = begun(tmp_path, "fedavg", "--deadline", "1", held=[2], change={"rounds": 4})
    with first["server"].at(2):
        first.pop("rome").kill()
    said = ended(first, 1)
    for one in said.values():
        assert (
            "fedtangent: rome was waited for, 1 seconds long, and too few sites are there without it. The run has "
            "ended at all sites. Go on with --resume." in one
        )
    assert "fedtangent: rome has ended. The run goes on as soon as all are there." in said["server"]
    said = ended(begun(tmp_path, "fedavg", "--resume", change={"rounds": 4}), 0)
    assert "round 4/4" in said["server"]
    assert "round 1/" not in said["server"]
    assert processes.rounds(tmp_path / "run") == expected("fedavg", rounds=4)


@pytest.mark.parametrize(
    ("method", "killed"), [("fedavg", ("rome", "server")), pytest.param("dfedavg", ("berlin", "paris"), marks=SLOW)]
)
def test_processes_that_are_killed_and_started_again_take_part_in_the_same_record(
    method: str, killed: tuple[str, str], tmp_path: Path
) -> None:
    running = begun(tmp_path, method, held=[2, 4], change={"rounds": 6})
    for round, name in zip((2, 4), killed, strict=True):
        with running[leader_of(method)].at(round):
            running[name].kill()
            federations.again(tmp_path, running, name, method, rounds=6)
    ended(running, 0)
    assert processes.rounds(tmp_path / "run") == expected(method, rounds=6)


@pytest.mark.parametrize(
    ("method", "fault"),
    [pytest.param("fedavg", "kill", marks=SLOW), pytest.param("fedavg", "hang", marks=SLOW), ("dfedavg", "kill")],
)
def test_with_a_quorum_a_run_goes_on_without_a_site_and_with_it_when_it_is_back(
    method: str, fault: str, tmp_path: Path
) -> None:
    """The record is that of a simulation in which it is absent in the same rounds."""
    how = ("--quorum", "0.6", "--deadline", "4", "--patience", "5")
    running = begun(tmp_path, method, *how, held=[2], back=4, change={"rounds": 6})
    leader, pid = running[leader_of(method)], running["rome"].process.pid
    assert pid is not None
    with leader.at(2):
        running["rome"].kill() if fault == "kill" else os.kill(pid, signal.SIGSTOP)
    if fault == "hang":
        leader.until("fedtangent: rome has said nothing for 5 seconds.")
    leader.until("as soon as all are there, or in 4 seconds with those that are.")
    leader.until("Going on without rome, with 2 of 3 sites.")
    leader.until("2 present")
    if fault == "kill":
        federations.again(tmp_path, running, "rome", method)
    else:
        os.kill(pid, signal.SIGCONT)
    said = ended(running, 0)
    assert "fedtangent: rome is back." in said[leader_of(method)]
    assert f"fedtangent: rome is back. Waiting for {leader_of(method)} to go on." in said["paris"]
    got = processes.rounds(tmp_path / "run")
    assert [entry["present"] for entry in got] == [3, 3, 2, 2, 3, 3]

    def fault_of() -> Fault:
        return Fault(lambda plan, draw: Missing(nodes=[2] if plan.round in (3, 4) else []))

    for one, other in zip(got, expected(method, rounds=6, fault=fault_of), strict=True):
        whole = one["present"] == 3
        assert one["node_accuracy"][2] is not None if whole else one["node_accuracy"][2] is None
        for name in one if whole else ["round", "present", "sent_bytes"]:
            assert one[name] == other[name], (one["round"], name)
    theirs = processes.rounds(next((tmp_path / "kits" / "rome" / "runs").iterdir()))
    assert [entry["round"] for entry in theirs if entry.get("away")] == [3, 4]


@SLOW
def test_masked_sums_that_were_begun_with_a_site_are_not_begun_again_without_it_alone(tmp_path: Path) -> None:
    """Three sites would have to be left out, and three to be left."""
    change = {"rounds": 4, "participation": 1.0}
    how = ("--quorum", "0.6", "--secure-sums", "--deadline", "1")
    running = begun(tmp_path, "fedavg", *how, held=[2], names=FIVE, change=change)
    with running["server"].at(2):
        running.pop("rome").kill()
    for one in ended(running, 1).values():
        assert "sums that it has a part in were begun, and without it they would tell what it has sent." in one
    ended(begun(tmp_path, "fedavg", *how[:3], "--resume", names=FIVE, change=change), 0)
    assert [entry["round"] for entry in processes.rounds(tmp_path / "run")] == [1, 2, 3, 4]


def refusal(place: Path, told: str, **change: Any) -> None:
    """What all say of a run that must not begin: this sentence, at every process, and nothing on the record."""
    names = change.pop("names", ("berlin", "rome"))
    processes.kits(place, True, names)
    asked = [*words(change.pop("method", "fedavg")), "--out", place / "run"]
    found = processes.run(place, asked, True, names=names, **change)
    for said in ended(found, 2).values():
        assert told in said, said
    assert not (place / "run" / "rounds.jsonl").exists()


def test_a_site_with_other_columns(place: Path) -> None:
    data = tiny.data()
    (place / "wide").mkdir()
    processes.files(place / "wide", data._replace(x_train=data.x_train.repeat(1, 2), x_test=data.x_test.repeat(1, 2)))
    change = {"rome": ("--data-dir", place / "wide" / "rome.npz")}
    told = "`inputs` must be the same at every site; got ['float32', 4] at berlin and ['float32', 8] at rome. Prepare"
    refusal(place, told, **change)


@SLOW
def test_a_site_with_targets_where_others_have_labels(place: Path) -> None:
    (place / "other").mkdir()
    processes.files(place / "other", tiny.data(classes=0))
    change = {"rome": ("--data-dir", place / "other" / "rome.npz")}
    refusal(place, "`outputs` must be the same at every site; got None at berlin and 2 at rome. Prepare", **change)


@SLOW
def test_a_site_whose_rows_cannot_be_read_says_so_and_all_end(place: Path) -> None:
    federations.made(place, "fedavg", ("berlin", "rome"))
    (place / "rome.npz").write_bytes(b"none")
    asked = words("fedavg")
    running = {name: processes.started(place, name, asked, True) for name in ("server", "berlin")}
    running["server"].until("server is ready")
    end = processes.started(place, "rome", asked, True).ended()
    assert end.code == 2 and "Traceback" not in end.said
    sentence = end.said.splitlines()[-1].removeprefix("fedtangent: ")
    assert sentence.startswith("`data_dir` must ")
    for said in ended(running, 1).values():
        assert f"fedtangent: `rome` must be able to run this; got there: {sentence}" in said


def test_exposures_need_the_consent_of_every_site(place: Path) -> None:
    told = "`consent.toml` must allow the exposure 'kernel' at berlin; got no consent in its kit."
    refusal(place, told, method="fedkfac")


@SLOW
def test_a_method_without_a_server_in_a_federation_with_one(place: Path) -> None:
    told = "`METHOD` must be one with a server in this federation; got dfedavg, which is without a server."
    refusal(place, told, method="dfedavg", names=NAMES)


@SLOW
def test_a_site_with_other_code(place: Path) -> None:
    told = "got another digest of the package. Install the same version of fedtangent at all sites."
    refusal(place, told, variables={"rome": {"OTHER_CODE": "edited"}})


@SLOW
def test_a_site_that_does_not_come(place: Path) -> None:
    processes.kits(place, True)
    server = processes.Process(["server", place / "kits" / "server", *words("fedavg"), "--wait", "2"], place / "log")
    end = server.ended(60)
    assert end.code == 2
    assert (
        "`berlin` must call within 2 seconds; got no call. Start that site, or give it more time by --wait." in end.said
    )


def test_a_kit_of_another_federation(place: Path) -> None:
    processes.kits(place, True)
    (place / "other").mkdir()
    there = processes.kits(place / "other", True)
    (there / "rome" / "kit.json").write_text((place / "kits" / "rome" / "kit.json").read_text())
    data = ("--dataset", "npz", "--data-dir", place / "rome.npz")
    server = processes.Process(["server", place / "kits" / "server", *words("fedavg"), "--wait", "40"], place / "log")
    server.until("expires")
    end = processes.Process(["site", there / "rome", *data, "--wait", "30"], place / "rome.log").ended(60)
    assert end.code == 2
    assert "`server` must show the certificate of server in this federation, by TLS 1.3; got at 127.0.0.1" in end.said
    server.until("turned away 127.0.0.1: ")
    server.process.kill()
    server.ended()


@pytest.mark.parametrize("method", ["fedkfac", pytest.param("dfedavg", marks=SLOW)])
def test_masked_sums_give_the_record_but_for_rounding(method: str, tmp_path: Path) -> None:
    said = ended(begun(tmp_path, method, "--secure-sums"), 0)
    assert "Sums are masked: a receiver sees the sum over sites." in said["paris"]
    got, plain = processes.rounds(tmp_path / "run"), expected(method)
    assert got != plain  # fixed point
    for one, other in zip(got, plain, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)
        assert one["node_accuracy"] == other["node_accuracy"]
        assert one["sent_bytes"] == other["sent_bytes"]
