"""Ranks of torch.distributed, as processes: the record of one process, whoever fails or is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedtangent import cli
from fedtangent.experiments import launch
from fedtangent.transports.memory import memory
from fedtangent.transports.ranks import cut
from tests import forked
from tests.often import often
from tests.transports.play import digests

OWN = """
'''Failing: FedAvg, but no node can take round 3.

round: w <- mean w_k
'''
from fedtangent.methods.fedavg import fedavg


def failing(task):
    made = fedavg(task)

    def round(fleet, state, data_k, k):
        if k == 3:
            fleet.mean(fleet.map(lambda data: data.x.reshape(7), data_k))
        return made.round(fleet, state, data_k, k)

    return made._replace(name="failing", round=round)
"""
CORES = os.cpu_count() or 1
SMALL = ["--nodes", "6", "--dtype", "float64", "--engine", "sequential"]


def env(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return {**kept, "OMP_NUM_THREADS": "1", **more}


@pytest.fixture
def command(forked_ranks: None, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The exit code of the command line and what it has said, run in this process, its ranks in forks."""

    def run(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        return (cli.main(words), *capfd.readouterr())

    return run


def started(*words: str, popen: Any = subprocess.Popen, **more: str) -> Any:
    return popen(
        [sys.executable, "-m", "fedtangent", *words],
        env=env(**more),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def rounds(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "rounds.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def ranks_of(folder: Path) -> list[int]:
    """The processes that run into a folder, their launcher not among them."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            launched = b"FEDTANGENT_LAUNCHED=1" in (entry / "environ").read_bytes()
        except OSError:
            continue
        if launched and str(folder).encode() in words:
            found.append(int(entry.name))
    return sorted(found)


def test_blocks_hold_about_as_many_rows_and_none_is_empty() -> None:
    assert cut([1] * 6, 3) == [0, 0, 1, 1, 2, 2]
    assert cut([9, 1, 1, 1, 1, 1], 2) == [0, 1, 1, 1, 1, 1]
    assert cut([1, 1, 1, 1, 1, 9], 3) == [0, 0, 0, 0, 1, 2]
    assert cut([5, 5], 2) == [0, 1]
    for rows in ([1, 100, 1, 1], [100, 1, 1, 1], [1, 1, 1, 100], [7] * 11):
        for count in range(1, 5):
            places = cut(rows, count)
            assert places == sorted(places)
            assert {*places} == {*range(count)}


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (2, ["shared"]),
        pytest.param(2, ["every"], marks=pytest.mark.slow),
        pytest.param(4, ["every", "shared"], marks=pytest.mark.slow),
    ],
)
def test_every_method_dense_convolutional_coded_and_faulty_gives_what_one_process_gives(
    count: int, words: list[str]
) -> None:
    """Bit for bit, with the engine sequential."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    meeting = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        forked.Popen(
            [sys.executable, "-m", "tests.transports.play", *words],
            env=env(**meeting, RANK=str(place), LOCAL_RANK=str(place)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for place in range(count)
    ]
    expected = digests(memory(), every="every" in words)
    told = [process.communicate(timeout=400) for process in processes]
    assert [process.returncode for process in processes] == [0] * count, told[0][1] + told[1][1]
    assert json.loads(told[0][0].splitlines()[-1]) == expected  # older versions of gloo print a line before
    assert len(expected) > 40


@pytest.mark.parametrize("method", ["dfedkfac", pytest.param("fedavg", marks=pytest.mark.slow)])
def test_the_record_and_the_model_are_those_of_one_process(method: str, tmp_path: Path, command: Any) -> None:
    one, two = tmp_path / "one", tmp_path / "with a space"
    assert command("run", method, "--rounds", "2", *SMALL, "--out", str(one))[0] == 0
    code, said, told = command("run", method, "--rounds", "2", *SMALL, "--ranks", "2", "--out", str(two))
    assert code == 0, told
    assert said.count("Exposure") == 1
    assert rounds(two) == rounds(one)
    assert (two / "model.safetensors").read_bytes() == (one / "model.safetensors").read_bytes()
    assert (two / "manifest.json").read_bytes() == (one / "manifest.json").read_bytes()
    code, _, told = command("run", method, "--rounds", "2", *SMALL, "--out", str(two), "--resume")
    assert code == 0, told


@pytest.fixture
def going(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A run on two ranks that has recorded a round, and takes far longer."""
    folder = tmp_path / "run"
    words = ["run", "dfedavg", "--rounds", "2000", *SMALL, "--epochs", "1", "--ranks", "2", "--out", str(folder)]
    with started(*words) as process:
        until = time.monotonic() + 200
        while not (folder / "rounds.jsonl").exists() and time.monotonic() < until:
            time.sleep(0.1)
        assert len(ranks_of(folder)) == 2
        yield process, folder
        process.kill()


@pytest.mark.parametrize("place", often([1, 0], [1]))
def test_a_rank_that_is_killed_ends_all_and_the_run_goes_on_from_one_process(going: Any, place: int) -> None:
    process, folder = going
    (victim,) = [
        pid for pid in ranks_of(folder) if f"\0RANK={place}\0" in (Path("/proc") / str(pid) / "environ").read_text()
    ]
    begin = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    _, told = process.communicate(timeout=60)
    assert time.monotonic() - begin < 10
    assert process.returncode == 1
    lines = [line for line in told.splitlines() if line.startswith("fedtangent: ")]
    assert lines == [
        f"fedtangent: rank {place} was killed by signal 9, and all ranks have ended. Go on with --resume, where there "
        "is an --out."
    ]
    assert "Traceback" not in told
    assert ranks_of(folder) == []
    done = len(rounds(folder))
    words = ["run", "dfedavg", "--rounds", "2000", *SMALL, "--epochs", "1", "--out", str(folder), "--resume"]
    again = started(*words, popen=forked.Popen)
    until = time.monotonic() + 100
    while len(rounds(folder)) < done + 2 and time.monotonic() < until:
        time.sleep(0.1)
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=60)
    assert again.returncode == 130
    assert [entry["round"] for entry in rounds(folder)][: done + 2] == [*range(1, done + 3)]


@pytest.mark.parametrize(("given", "level"), [({}, "ERROR"), ({"TORCH_CPP_LOG_LEVEL": "INFO"}, "INFO")])
def test_ranks_do_not_warn_of_lost_peers_beside_the_sentence(
    given: dict[str, str], level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def ended(words: list[str], env: dict[str, str], **_: Any) -> Any:
        seen.append(env["TORCH_CPP_LOG_LEVEL"])
        return SimpleNamespace(poll=lambda: 0, wait=lambda: 0, stdin=None)

    monkeypatch.setattr(launch, "subprocess", SimpleNamespace(Popen=ended, PIPE=-1, DEVNULL=-3))
    monkeypatch.delenv("TORCH_CPP_LOG_LEVEL", raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert launch.launch(["run"], 2) == 0 and seen == [level, level]


@pytest.mark.slow
def test_nothing_is_left_where_the_launcher_itself_is_killed(going: Any) -> None:
    process, folder = going
    process.kill()
    until = time.monotonic() + 10
    while ranks_of(folder) and time.monotonic() < until:
        time.sleep(0.1)
    assert ranks_of(folder) == []


def test_a_rank_that_fails_is_named_with_its_node(tmp_path: Path, command: Any) -> None:
    own = tmp_path / "failing.py"
    own.write_text(OWN)
    code, _, said = command("run", str(own), "--rounds", "4", *SMALL, "--ranks", "2", "--out", "none")
    assert code == 1
    told = [line for line in said.splitlines() if line.startswith("fedtangent: ")]
    assert told
    assert all(line.startswith(("fedtangent: rank 0: node", "fedtangent: rank 1: node")) for line in told)
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--nodes", "2", "--ranks", "3"], "`ranks` must be at most the nodes, 2; got 3. Start fewer."),
        (["--nodes", "100", "--ranks", "1000000"], "`ranks` must be at most the nodes, 100; got 1000000. Start fewer."),
        (["--nodes", "1400", "--ranks", "1399"], f"`ranks` must be at most {16 * CORES} on {CORES} cores; got 1399."),
        (["--ranks", "0"], "`ranks` must be at least 1; got 0. Leave it out for one process."),
        (["--ranks", "2", "--dry-run"], "`ranks` must be left out of a dry run, which is of one process; got both."),
        (["--ranks", "2", "--lr", "fast"], "`lr` must be a number; got 'fast'."),
        (["--ranks", "2", "--device", "cuda:0"], "`device` must be cuda without a number on ranks; got cuda:0."),
    ],
)
def test_bad_input_is_one_sentence_and_no_rank_waits(words: list[str], sentence: str, command: Any) -> None:
    code, _, said = command("run", "fedavg", "--rounds", "1", *words)
    assert code == 2
    told = [line for line in said.splitlines() if "UserWarning" not in line]
    assert told == [line for line in told if line.startswith(f"fedtangent: {sentence}")]
    assert len(told) == 1


def together(*commands: list[str]) -> list[tuple[int, str]]:
    """Ranks with commands of their own, as several machines would start them."""
    port = str(40000 + os.getpid() % 20000)
    processes = [
        started(
            *words,
            popen=forked.Popen,
            RANK=str(rank),
            WORLD_SIZE=str(len(commands)),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )
        for rank, words in enumerate(commands)
    ]
    told = [process.communicate(timeout=200)[1] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, told, strict=True)]


def test_ranks_with_other_settings_are_refused_and_named() -> None:
    base = ["run", "fedavg", "--rounds", "1", *SMALL]
    (first, told), (second, other) = together([*base, "--lr", "0.1"], [*base, "--lr", "0.2"])
    assert (first, second) == (2, 2)
    assert told.startswith("fedtangent: `lr` must be the same on every rank; got 0.1 on rank 0 and 0.2 on rank 1.")
    assert other == ""


@pytest.mark.slow
def test_a_rank_without_the_data_set_is_named(tmp_path: Path) -> None:
    base = ["run", "fedavg", "--rounds", "1", *SMALL]
    (first, told), (second, other) = together(base, [*base, "--dataset", "mnist", "--data-dir", str(tmp_path)])
    assert (first, second) == (2, 2)
    assert told.startswith("fedtangent: rank 1 must be able to run this; got there: ")
    assert other == ""
