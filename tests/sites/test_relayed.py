"""A federation by a relay, all processes on loopback: the record of one process, of which the relay reads nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedtangent.transports._tls import Address
from tests.sites import federations, processes
from tests.sites.federations import SERVED, begun, ended, expected, leader_of, words
from tests.transports.tap import Tap

RELAYED = {"fedavg": ("server",), "dfedavg": ("berlin", "rome")}  # paris has an address
MARKERS = (b"FdTg", b'"settings"', b'"digest"', b'"hearts')  # of every frame, a plan, a profile of the rows


class Relayed:
    """A relay's process behind a tap, and the kits of those that use it."""

    def __init__(self, folder: Path, method: str) -> None:
        self.folder, (self.port,) = folder, processes.ports(1)
        self.tap = Tap(Address("127.0.0.1", self.port))
        processes.kits(folder, method in SERVED, relayed=RELAYED[method], relay=self.tap.address.port)
        self.relay = self.started()

    def started(self) -> processes.Process:
        listen = ["--listen", f"127.0.0.1:{self.port}"]
        found = processes.Process(["relay", self.folder / "kits" / "relay", *listen], self.folder / "relay.log")
        found.until("The relay of hearts listens at 127.0.0.1")
        return found

    def close(self) -> None:
        self.relay.process.kill()
        self.relay.ended()
        self.tap.close()


@pytest.fixture
def relayed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Relayed]:
    processes.files(tmp_path)
    found = Relayed(tmp_path, request.param)
    yield found
    found.close()


@pytest.mark.parametrize(
    ("method", "relayed"),
    [pytest.param("fedavg", "fedavg", marks=pytest.mark.slow), ("dfedavg", "dfedavg")],
    indirect=["relayed"],
)
def test_the_record_is_that_of_one_process_and_the_relay_reads_nothing(method: str, relayed: Relayed) -> None:
    ended(begun(relayed.folder, method), 0)
    assert processes.rounds(relayed.folder / "run") == expected(method)
    assert len(relayed.tap.seen) > 20_000
    assert [marker for marker in (*MARKERS, method.encode()) if marker in relayed.tap.seen] == []
    pairs = 3 if method == "fedavg" else 2  # all call the server; the others call berlin, and rome calls paris itself
    relayed.relay.until("have ended")
    said = relayed.relay.said()
    assert said.count("is joined to") == pairs, said


@pytest.mark.few(1)
@pytest.mark.parametrize(("method", "relayed"), [(name, name) for name in RELAYED], indirect=["relayed"])
def test_a_relay_or_a_site_that_is_killed_and_started_again_takes_part_in_the_same_record(
    method: str, relayed: Relayed
) -> None:
    leader = leader_of(method)
    running = begun(relayed.folder, method, held=[2, 4], change={"rounds": 6})
    with running[leader].at(2):
        relayed.relay.kill()
    running[leader].until(" has ended, or the relay has. The run goes on as soon as all are there.")
    relayed.relay = relayed.started()
    with running[leader].at(4):
        running["rome"].kill()
        federations.again(relayed.folder, running, "rome", method)
    said = ended(running, 0)
    assert processes.rounds(relayed.folder / "run") == expected(method, rounds=6)
    if method == "fedavg":
        assert " is there again" in said["server"]


@pytest.mark.parametrize("relayed", ["fedavg"], indirect=True)
def test_a_relay_that_does_not_come_back_ends_all_with_one_sentence(relayed: Relayed) -> None:
    running = begun(relayed.folder, "fedavg", held=[2], wait=6)
    with running["server"].at(2):
        relayed.relay.kill()
    for said in ended(running, 1, 40).values():
        assert " was waited for, 6 seconds long" in said
        assert "Go on with --resume." in said


@pytest.mark.parametrize("relayed", ["fedavg"], indirect=True)
def test_a_relay_that_is_not_there(relayed: Relayed) -> None:
    relayed.relay.process.kill()
    relayed.relay.ended()
    relayed.tap.close()
    kits, data = relayed.folder / "kits", ("--dataset", "npz", "--data-dir", relayed.folder / "rome.npz")
    server = processes.Process(["server", kits / "server", *words("fedavg"), "--wait", "1"], relayed.folder / "one.log")
    site = processes.Process(["site", kits / "rome", *data, "--wait", "1"], relayed.folder / "two.log")
    for process, told in {
        server: "`relay` must be reached at 127.0.0.1",
        site: "`server` must be reached at the relay 127.0.0.1",
    }.items():
        end = process.ended(60)
        assert end.code == 2
        assert told in end.said and "got Connection refused. Start " in end.said
        assert "Traceback" not in end.said


@pytest.mark.parametrize("relayed", ["dfedavg"], indirect=True)
def test_the_relays_own_port_or_kit_in_use(relayed: Relayed) -> None:
    kit, listen = relayed.folder / "kits" / "relay", ["--listen", f"127.0.0.1:{relayed.port}"]
    shutil.copytree(kit, relayed.folder / "copied")
    for place, told in {
        kit: "`kit` must not be in use; got ",
        relayed.folder / "copied": "`address` must be one where this site can listen; got 127.0.0.1",
    }.items():
        second = processes.Process(["relay", place, *listen], relayed.folder / "second.log").ended(60)
        assert second.code == 2
        assert told in second.said
