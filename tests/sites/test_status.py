"""Status: what it says of a kit, before, in and after a run that it does not disturb; one process a kit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fedtangent.cli import main
from fedtangent.experiments import lock
from fedtangent.sites.provision import revoke
from fedtangent.sites.status import status
from tests.sites import federations, processes
from tests.sites.federations import begun, ended, expected
from tests.sites.test_kit import PEERS, RELAYED, SERVED, written


def told(folder: Path) -> dict[str, str]:
    return dict(status(folder).rows)


def test_a_kit_that_was_never_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = written(tmp_path, SERVED)
    before = sorted((folder / "paris").iterdir())
    assert main(["status", str(folder / "paris")]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    lines = [" ".join(line.split()) for line in said.out.splitlines()]
    assert lines.pop(1).startswith("certificate until ")
    assert lines == [
        "federation hearts, of which this is paris",
        "address book server at fl.example.org:8443",
        "berlin calls the server",
        "paris calls the server",
        "consents to none, aggregate",
        "process none",
        "run none that is recorded",
    ]
    assert sorted((folder / "paris").iterdir()) == before


def test_a_relays_kit_and_who_is_called_by_it(tmp_path: Path) -> None:
    folder = written(tmp_path, PEERS.replace('address = "[::1]:7000"\n', "") + RELAYED)
    rows = status(folder / "relay").rows
    assert [text for subject, text in rows if subject in ("", "address book")] == [
        "berlin is called by the relay",
        "paris at b.example.org:7001",
        "relay at relay.example.org:8443",
    ]
    assert {subject for subject, _ in rows} == {"federation", "certificate", "address book", "", "process"}


def test_what_is_not_well_is_a_sentence_and_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = written(tmp_path, "days = 13\n" + SERVED)
    revoke(folder, "paris")
    assert main(["status", str(folder / "paris")]) == 1
    said = capsys.readouterr().err
    assert "fedtangent: The certificate of paris expires on " in said
    assert "fedtangent: The certificate of paris is revoked. Ask for a new kit." in said
    (folder / "paris" / "key.pem").chmod(0o644)
    assert main(["status", str(folder / "paris")]) == 2
    assert "`kit` must have a key that nobody else may read" in capsys.readouterr().err


def test_a_federation_that_runs_is_told_of_and_not_disturbed(tmp_path: Path) -> None:
    long, folder = 8, processes.kits(tmp_path, True, days=30)
    processes.files(tmp_path)
    found = begun(tmp_path, "fedavg", held=[2, 6], change={"rounds": long})
    found["server"].until("round 2/")
    for name in ("server", "rome"):
        one = status(folder / name)
        rows = dict(one.rows)
        assert rows["process"].startswith(f"{found[name].process.pid} on ")
        assert rows["run"].startswith(f"fedavg goes on, round 2 of {long}, ")
        assert " s ago, accuracy 0." in rows["run"]
        assert rows["checkpoint"].startswith("of round ")
        assert rows["plan"] == "signed by server, berlin, paris, rome"
        assert not one.wrong
    found["rome"].kill()
    found["server"].goes_on(2)
    found["server"].until("The run goes on as soon as all are there.")
    one, gone = status(folder / "server"), status(folder / "rome")
    assert dict(one.rows)["run"].startswith("fedavg waits, round 2 ") and not one.wrong
    assert dict(gone.rows)["process"] == "none" and dict(gone.rows)["run"].startswith("fedavg stopped, round ")
    assert len(gone.wrong) == 1 and gone.wrong[0].endswith(
        " has stopped here. Start this process again by its command; a leader takes --resume."
    )
    second = processes.Process(["site", folder / "paris", "--dataset", "digits"], tmp_path / "second.log").ended(60)
    assert second.code == 2
    pid = found["paris"].process.pid
    assert f"`kit` must not be in use; got {folder / 'paris'}, with which process {pid} on " in second.said
    federations.again(tmp_path, found, "rome", "fedavg")
    with found["server"].at(6):
        assert told(folder / "server")["run"].startswith(f"fedavg goes on, round 6 of {long}, ")
    ended(found, 0)
    assert processes.rounds(tmp_path / "run") == expected("fedavg", rounds=long)
    for name, place in {"server": tmp_path / "run", "rome": next((folder / "rome" / "runs").iterdir())}.items():
        rows = told(folder / name)
        assert rows["process"] == "none"
        assert rows["run"].startswith(f"fedavg has ended, round {long} of {long}, ")
        assert rows["checkpoint"] == f"of round {long}, in {place}"
        assert not status(folder / name).wrong
    revoke(folder, "rome")  # whose signature was good when it was made
    assert dict(status(folder / "server").rows)["plan"] == "signed by server, berlin, paris, rome"
    assert status(folder / "rome").wrong == ["The certificate of rome is revoked. Ask for a new kit."]
    _stopped(folder / "server", tmp_path / "run")


def _stopped(kit: Path, run: Path) -> None:
    """Of the same record, as a kill leaves it, as a crash before the first round does, and damaged."""
    lines = (run / "rounds.jsonl").read_text().splitlines(keepends=True)
    (run / "rounds.jsonl").write_text("".join(lines[:5]) + lines[5][:30])
    one = status(kit)
    assert dict(one.rows)["run"].startswith("fedavg stopped, round 5 of 8, ")
    assert one.wrong == [
        f"The run in {run} has stopped here. Start this process again by its command; a leader takes --resume."
    ]
    with lock.held(run):  # somebody else records there
        assert dict(status(kit).rows)["run"].startswith("fedavg stopped")
    shutil.move(run / "rounds.jsonl", run / "away")
    assert told(kit)["run"] == "ended before its first round"
    (run / "rounds.jsonl").write_text(json.dumps({"round": "many"}) + "\n")
    one = status(kit)
    assert dict(one.rows)["run"] == f"damaged, in {run}"
    assert len(one.wrong) == 1 and str(run) in one.wrong[0]
    shutil.move(run / "away", run / "rounds.jsonl")
    agreed = (run / ".agreed.json").read_text()
    (run / ".agreed.json").write_text(agreed.replace('"rounds": 8', '"rounds": 9'))
    assert status(kit).wrong[0].startswith("`server` must sign the plan with its certificate; got another")
    (run / ".agreed.json").write_text("{}")
    assert status(kit).wrong[0].startswith("`.agreed.json` must be as its run wrote it; got another in")
    (run / ".agreed.json").write_text(agreed)
    (run / "checkpoint.safetensors").write_bytes(b"torn")
    assert "must hold a whole checkpoint.safetensors; got a damaged one" in status(kit).wrong[0]


def test_a_site_that_waits(tmp_path: Path) -> None:
    processes.files(tmp_path)
    folder = processes.kits(tmp_path, False, days=30)
    data = ("--dataset", "npz", "--data-dir", tmp_path / "berlin.npz")
    process = processes.Process(["site", folder / "berlin", *data, "--wait", "3"], tmp_path / "berlin.log")
    while told(folder / "berlin")["process"] == "none":
        assert process.process.is_alive()
    assert told(folder / "berlin")["run"] == "none that is recorded"
    assert process.ended(60).code == 2
    assert told(folder / "berlin")["process"] == "none"
    assert not (folder / "berlin" / ".lock").exists()


def test_a_kit_that_cannot_be_written_is_used_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container, where it is mounted so."""
    from fedtangent.sites.in_use import in_use

    folder = written(tmp_path, SERVED)
    before = sorted((folder / "paris").iterdir())
    monkeypatch.setattr("os.access", lambda *_: False)
    with in_use(folder / "paris"), in_use(folder / "paris"):
        assert sorted((folder / "paris").iterdir()) == before
