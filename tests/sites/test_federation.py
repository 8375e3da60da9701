"""A federation of processes on loopback: the record of one process, after kills too; what is wrong is refused."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from fedtangent.experiments.run import run as in_memory
from fedtangent.federation import Fault, Missing
from fedtangent.shard import Dataset
from tests.experiments import tiny
from tests.sites import processes

OPTIONS: dict[str, dict[str, Any]] = {
    "fedavg": {"participation": 0.7, "batch": 4},
    "fedkfac": {"guard": False},
    "dfedavg": {"epochs": 2, "batch": 4, "momentum": 0.5, "degree": 2},
    "dfedkfac": {"degree": 2},
    "ntkdfl": {"times": (2, 9), "lr": 0.3, "degree": 2},
}
SERVED = ("fedavg", "fedkfac")
ROUNDS = 3


def words(method: str, **change: Any) -> list[str]:
    """METHOD and its options as one types them."""
    given = {**OPTIONS[method], "rounds": ROUNDS, "dtype": "float64", "hidden": (6,), **change}
    typed = {name: ",".join(map(str, value)) if isinstance(value, tuple) else value for name, value in given.items()}
    found = [method]
    for name, value in typed.items():
        flag = f"--{name.replace('_', '-')}"
        found += [flag if value else f"--no-{flag[2:]}"] if isinstance(value, bool) else [flag, str(value)]
    return found


def expected(method: str, data: Dataset | None = None, **change: Any) -> list[dict[str, Any]]:
    """The record of one process with all rows."""
    asked = tiny.experiment(
        method,
        **OPTIONS[method],
        **{"rounds": ROUNDS, "dtype": "float64", "hidden": (6,), "engine": "sequential", **change},
        dataset=tiny.data() if data is None else data,
        partition=processes.partition(),
    )
    return tiny.timeless(in_memory(asked).rounds)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    processes.files(tmp_path)
    return tmp_path


@pytest.mark.parametrize("method", OPTIONS)
def test_the_record_is_that_of_one_process(method: str, place: Path) -> None:
    served = method in SERVED
    processes.kits(place, served, consent=["kernel", "raw-equivalent"])
    found = processes.run(place, [*words(method), "--out", place / "run"], served)
    ended = {name: process.ended() for name, process in found.items()}
    assert {name: end.code for name, end in ended.items()} == dict.fromkeys(ended, 0), ended
    assert processes.rounds(place / "run") == expected(method)
    agreed = [json.loads(path.read_text()) for path in place.rglob(".agreed.json")]
    assert len(agreed) == (6 if served else 5) and all(one == agreed[0] for one in agreed)
    assert {*agreed[0]["signatures"]} == {*ended}
    assert agreed[0]["terms"]["settings"]["method"] == method
    told = ended["rome"].said
    assert f"{method} by {'server' if served else 'berlin'} on hearts, 5 sites, 30 rows" in told
    assert "Exposure" in told
    assert "rome sends to " in told


@pytest.mark.parametrize("method", ["fedavg", "dfedavg"])
def test_rows_that_sites_keep_back_end_a_run_as_in_one_process(method: str, place: Path) -> None:
    served = method in SERVED
    change: dict[str, Any] = {"rounds": 9, "lr": 2.5, "validation": 0.3, "early_stop": 1}
    processes.kits(place, served)
    track = ["--track", "tensorboard"]
    found = processes.run(place, [*words(method, **change), "--out", place / "run", *track], served)
    ended = {name: process.ended() for name, process in found.items()}
    assert {name: end.code for name, end in ended.items()} == dict.fromkeys(ended, 0), ended
    one = expected(method, **change)
    assert processes.rounds(place / "run") == one and len(one) < 9
    assert json.loads((place / "run" / "trackers.json").read_text())["tensorboard"]["rounds"] == len(one)
    assert (place / "run" / "report.html").is_file()  # of the leader, who tracks


def test_a_site_that_does_not_come_back_ends_all_with_one_sentence_and_resume_goes_on(place: Path) -> None:
    processes.kits(place, True)
    asked = [*words("fedavg", rounds=25), "--out", place / "run", "--deadline", "1"]
    first = processes.run(place, asked, True)
    first["server"].until("round 3/")
    first["rome"].process.kill()
    ended = {name: process.ended(60) for name, process in first.items()}
    assert ended.pop("rome").code == -signal.SIGKILL
    assert {end.code for end in ended.values()} == {1}, ended
    for end in ended.values():
        assert (
            "fedtangent: rome was waited for, 1 seconds long, and too few sites are there without it. The run has "
            "ended at all sites. Go on with --resume." in end.said
        )
        assert "Traceback" not in end.said
    assert "fedtangent: rome has ended. The run goes on as soon as all are there." in ended["server"].said
    second = processes.run(place, [*asked, "--resume"], True)
    again = {name: process.ended() for name, process in second.items()}
    assert {name: end.code for name, end in again.items()} == dict.fromkeys(again, 0), again
    assert "round 25/25" in again["server"].said
    assert "round 1/" not in again["server"].said
    assert processes.rounds(place / "run") == expected("fedavg", rounds=25)


@pytest.mark.parametrize(
    ("method", "killed"), [("fedavg", "rome"), ("fedkfac", "server"), ("dfedavg", "berlin"), ("dfedkfac", "wien")]
)
def test_a_process_that_is_killed_and_started_again_takes_part_in_the_same_record(
    method: str, killed: str, place: Path
) -> None:
    served, long = method in SERVED, 25
    leader = "server" if served else "berlin"
    processes.kits(place, served, consent=["kernel", "raw-equivalent"])
    asked = [*words(method, rounds=long), "--out", place / "run"]
    running = processes.run(place, asked, served)
    for round in (3, 9):
        running[leader].until(f"round {round}/")
        running[killed].process.kill()
        assert running[killed].ended(60).code == -signal.SIGKILL
        running[killed] = processes.started(place, killed, [*asked, "--resume"], served)
    ended = {name: process.ended() for name, process in running.items()}
    assert {name: end.code for name, end in ended.items()} == dict.fromkeys(ended, 0), ended
    assert processes.rounds(place / "run") == expected(method, rounds=long)


@pytest.mark.parametrize("method", ["fedavg", "dfedavg"])
def test_with_a_quorum_a_run_goes_on_without_a_site_and_with_it_when_it_is_back(method: str, place: Path) -> None:
    """The record is that of a simulation in which it is absent in the same rounds."""
    served, long = method in SERVED, 40
    leader = "server" if served else "berlin"
    processes.kits(place, served)
    asked = [*words(method, rounds=long), "--out", place / "run", "--quorum", "0.8", "--deadline", "1"]
    running = processes.run(place, asked, served)
    running[leader].until("round 3/")
    running["rome"].process.kill()
    running["rome"].ended(60)
    running[leader].until("4 present")
    pid = running[leader].process.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)  # or the run may be over before rome is there
    running["rome"] = processes.started(place, "rome", [], served, wait=60)
    running["rome"].until("rome is ready")
    os.kill(pid, signal.SIGCONT)
    running[leader].until("fedtangent: rome is back.")
    ended = {name: process.ended() for name, process in running.items()}
    assert {name: end.code for name, end in ended.items()} == dict.fromkeys(ended, 0), ended
    got = processes.rounds(place / "run")
    assert [entry["round"] for entry in got] == [*range(1, long + 1)]
    away = [entry["round"] for entry in got if entry["present"] == 4]
    assert away == [*range(away[0], away[-1] + 1)] and away[0] > 3 and away[-1] < long

    def fault() -> Fault:
        return Fault(lambda plan, draw: Missing(nodes=[2] if plan.round in away else []))

    for one, other in zip(got, expected(method, rounds=long, fault=fault), strict=True):
        whole = one["round"] not in away
        assert one["node_accuracy"][2] is not None if whole else one["node_accuracy"][2] is None
        for name in one if whole else ["round", "present", "sent_bytes"]:
            assert one[name] == other[name], (one["round"], name)
    theirs = processes.rounds(next((place / "kits" / "rome" / "runs").iterdir()))
    assert [entry["round"] for entry in theirs if entry.get("away")] == away


def test_masked_sums_that_were_begun_with_a_site_are_not_begun_again_without_it_alone(place: Path) -> None:
    """Of five sites three would have to be left out, and three to be left."""
    processes.kits(place, True)
    asked = [*words("fedavg", rounds=40), "--out", place / "run", "--quorum", "0.6", "--secure-sums", "--deadline", "1"]
    running = processes.run(place, asked, True)
    running["server"].until("round 3/")
    running["rome"].process.kill()
    ended = {name: process.ended(60) for name, process in running.items()}
    assert ended.pop("rome").code == -signal.SIGKILL
    assert {end.code for end in ended.values()} == {1}, ended
    for end in ended.values():
        assert "sums that it has a part in were begun, and without it they would tell what it has sent." in end.said
    again = processes.run(place, [*asked, "--resume"], True)
    told = {name: process.ended() for name, process in again.items()}
    assert {name: end.code for name, end in told.items()} == dict.fromkeys(told, 0), told
    assert [entry["round"] for entry in processes.rounds(place / "run")] == [*range(1, 41)]


def refusal(place: Path, told: str, code: int = 2, **change: Any) -> dict[str, processes.Ended]:
    """What all say of a run that must not begin: this sentence, at every process, and nothing on the record."""
    processes.kits(place, True, **change.pop("kits", {}))
    found = processes.run(place, [*words(change.pop("method", "fedavg")), "--out", place / "run"], True, **change)
    ended = {name: process.ended() for name, process in found.items()}
    assert {name: end.code for name, end in ended.items()} == dict.fromkeys(ended, code), ended
    for end in ended.values():
        assert told in end.said, end.said
        assert "Traceback" not in end.said
    assert not (place / "run" / "rounds.jsonl").exists()
    return ended


def test_a_site_with_other_columns(place: Path) -> None:
    data = tiny.data()
    (place / "wide").mkdir()
    processes.files(place / "wide", data._replace(x_train=data.x_train.repeat(1, 2), x_test=data.x_test.repeat(1, 2)))
    change = {"rome": ("--data-dir", place / "wide" / "rome.npz")}
    told = "`inputs` must be the same at every site; got ['float32', 4] at berlin and ['float32', 8] at rome. Prepare"
    refusal(place, told, **change)


def test_a_site_with_targets_where_others_have_labels(place: Path) -> None:
    (place / "other").mkdir()
    processes.files(place / "other", tiny.data(classes=0))
    change = {"rome": ("--data-dir", place / "other" / "rome.npz")}
    refusal(place, "`outputs` must be the same at every site; got None at berlin and 2 at rome. Prepare", **change)


def test_exposures_need_the_consent_of_every_site(place: Path) -> None:
    told = "`consent.toml` must allow the exposure 'kernel' at berlin; got no consent in its kit."
    refusal(place, told, method="fedkfac")


def test_a_method_without_a_server_in_a_federation_with_one(place: Path) -> None:
    told = "`METHOD` must be one with a server in this federation; got dfedavg, which is without a server."
    refusal(place, told, method="dfedavg")


def test_a_site_with_other_code(place: Path) -> None:
    told = "got another digest of the package. Install the same version of fedtangent at all sites."
    refusal(place, told, variables={"rome": {"OTHER_CODE": "edited"}})


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


@pytest.mark.parametrize("method", ["fedkfac", "dfedavg"])
def test_masked_sums_give_the_record_but_for_rounding(method: str, place: Path) -> None:
    served = method in SERVED
    processes.kits(place, served, consent=["kernel"])
    found = processes.run(place, [*words(method), "--secure-sums", "--out", place / "run"], served)
    ended = {name: process.ended() for name, process in found.items()}
    assert {name: end.code for name, end in ended.items()} == dict.fromkeys(ended, 0), ended
    assert "Sums are masked: a receiver sees the sum over sites." in ended["oslo"].said
    got, plain = processes.rounds(place / "run"), expected(method)
    assert got != plain  # fixed point
    for one, other in zip(got, plain, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)
        assert one["node_accuracy"] == other["node_accuracy"]
        assert one["sent_bytes"] == other["sent_bytes"]
