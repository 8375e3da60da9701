"""Processes of a federation on this machine: each runs the command line, forked from one that has imported it."""

from __future__ import annotations

import contextlib
import gc
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedtangent.cli import main
from fedtangent.shard import Dataset, Partition
from fedtangent.sites import commands, site_words, sitting  # noqa: F401  imported before the fork
from fedtangent.sites.provision import provision
from tests.experiments import tiny
from tests.sites import lies

FIVE = ("berlin", "paris", "rome", "oslo", "wien")
NAMES = FIVE[:3]
MOST = 120.0  # seconds until a test gives up
_STARTED: list[multiprocessing.process.BaseProcess] = []
_CONTEXT = multiprocessing.get_context("forkserver")
# what commands, some data sets and first derivatives import
_DERIVATIVES = ("torch._dynamo", "torch._decomp.decompositions_for_jvp")
_CONTEXT.set_forkserver_preload(
    ["tests.sites.processes", "networkx", "cryptography.x509", "sklearn.model_selection", *_DERIVATIVES]
)


class Ended(NamedTuple):
    """code: Of the exit. said: On stdout and stderr."""

    code: int | None
    said: str


class Process:
    """One command of the command line, in a process of its own.

    Args:
        words: Of the command.
        log: What it says is added there.
        variables: Of its environment.
        folder: Where it runs; none is this process's.
    """

    def __init__(
        self, words: Sequence[Any], log: Path, variables: Mapping[str, str] | None = None, folder: Path | None = None
    ) -> None:
        self.log = log
        log.touch()
        log.with_suffix(".before").write_text(log.read_text())
        self.process = _CONTEXT.Process(target=_run, args=([*map(str, words)], str(log), dict(variables or {}), folder))
        self.process.start()
        _STARTED.append(self.process)

    def said(self) -> str:
        """What it has said, and not its predecessors."""
        return self.log.read_text().removeprefix(self.log.with_suffix(".before").read_text())

    def until(self, text: str, seconds: float = MOST, after: str = "") -> None:
        """Waits until it says something, and that after something else."""
        end = time.monotonic() + seconds
        while text not in self.said().partition(after)[2] if after else text not in self.said():
            assert time.monotonic() < end and self.process.is_alive(), self.said()
            time.sleep(0.02)

    @contextlib.contextmanager
    def at(self, round: int) -> Iterator[None]:
        """Inside, this leader waits with a round over; it was told so by `held`, or runs on."""
        self.until(f"round {round}/")
        yield
        self.goes_on(round)

    def goes_on(self, round: int) -> None:
        """Lets a leader go on that waits with a round over."""
        self.log.with_suffix(f".held{round}").unlink()

    def kill(self) -> None:
        """As `kill -9` does."""
        self.process.kill()
        assert self.ended().code == -signal.SIGKILL

    def ended(self, seconds: float = MOST) -> Ended:
        """How it ended; one that has not by then is killed, and its code is None."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            return Ended(None, self.said())
        return Ended(self.process.exitcode, self.said())


def held(folder: Path, leader: str, *rounds: int, back: int = 0) -> None:
    """Makes a leader that is started later wait with each of these rounds over, so that a test can do something there.

    Args:
        folder: With its log.
        leader: Its name.
        rounds: As `Process.at` has them.
        back: A round after which it waits until a site that is away is back, and goes on by itself.
    """
    for round in rounds:
        (folder / f"{leader}.held{round}").touch()
    if back:
        (folder / f"{leader}.held{back}").write_text("until a site is back")


def _waiting(log: Path) -> None:
    """Makes this process do so where it leads, and where it is started again with that round over."""
    between, result = sitting._Sitting._between, sitting._Sitting.result

    def wait(round: int, back: Callable[[], Any]) -> None:
        file = log.with_suffix(f".held{round}")
        with contextlib.suppress(FileNotFoundError):
            while not (file.read_text() and back()):
                time.sleep(0.01)

    def waiting(self: Any, lines: Any, plan: Any, round: int, sums: Any) -> None:
        wait(round, lambda: self._caller.back(plan.present))
        between(self, lines, plan, round, sums)

    def begun(self: Any, lines: Any, plan: Any, *rest: Any) -> Any:
        if self._caller is not None:
            wait(plan.over, lambda: True)
        return result(self, lines, plan, *rest)

    sitting._Sitting._between = waiting  # type: ignore[method-assign]
    sitting._Sitting.result = begun  # type: ignore[method-assign]


def alive() -> list[int | None]:
    """The processes that have not ended."""
    return [process.pid for process in _STARTED if process.is_alive()]


def kill_all() -> None:
    """Leaves no process of a test that failed."""
    while _STARTED:
        process = _STARTED.pop()
        if process.is_alive():
            process.kill()
            process.join()


def _run(words: list[str], log: str, variables: dict[str, str], folder: Path | None) -> None:
    gc.freeze()  # or it looks at all of PyTorch, which a fork shares until then
    _waiting(Path(log))
    os.environ.update(variables)
    if folder is not None:
        os.chdir(folder)
    lies.told(variables, Path(log))
    with open(log, "a", buffering=1) as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        code = main(words)
    sys.exit(code)


def ports(count: int) -> list[int]:
    """Free ones."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def kits(
    folder: Path,
    served: bool,
    names: Sequence[str] = NAMES,
    consent: Sequence[str] = (),
    days: float = 9,
    relayed: Sequence[str] = (),
    relay: int | None = None,
) -> Path:
    """The kits of a federation on this machine.

    Args:
        folder: Where they go.
        served: Whether there is a server.
        names: Of the sites.
        consent: Exposures that they allow.
        days: That certificates last.
        relayed: Who is called by a relay.
        relay: Its port; none is a free one.
    """
    free = ports(len(names) + 2)
    text = f'name = "hearts"\ndays = {days}\n'
    text += f'[relay]\naddress = "127.0.0.1:{relay or free[-1]}"\n' if relayed else ""
    address = {name: f'address = "127.0.0.1:{port}"\n' for name, port in zip(("server", *names), free, strict=False)}
    address |= dict.fromkeys(relayed, "")
    text += "[server]\n" + address["server"] if served else ""
    for name in names:
        text += f"[sites.{name}]\n" + ("" if served else address[name])
    (folder / "federation.toml").write_text(text)
    provision(folder / "federation.toml", folder / "kits")
    for name in names:
        (folder / "kits" / name / "consent.toml").write_text(f"exposures = {json.dumps([*consent])}\n")
    return folder / "kits"


def partition(names: Sequence[str] = NAMES) -> Partition:
    """Rows and test rows of every site, none as many as another; the last of three has those of the last of five."""
    index, test = tiny.partition().index, np.split(np.arange(13), [1, 4, 8, 10])
    last = len(names) - 1
    index, test = ([*parts[:last], np.concatenate(parts[last:])] for parts in (index, test))
    return Partition(index, None, test)


def files(folder: Path, data: Dataset | None = None, names: Sequence[str] = NAMES) -> dict[str, Path]:
    """Every site's own rows as a file."""
    data, found = tiny.data() if data is None else data, {}
    part = partition(names)
    assert part.test_index is not None
    for name, rows, test in zip(names, part.index, part.test_index, strict=True):
        found[name] = folder / f"{name}.npz"
        arrays = {"x_train": data.x_train[rows], "y_train": data.y_train[rows]}
        arrays |= {"x_test": data.x_test[test], "y_test": data.y_test[test]}
        np.savez(found[name], **{key: value.numpy() for key, value in arrays.items()})
    return found


def run(
    folder: Path,
    words: Sequence[Any],
    served: bool,
    variables: Mapping[str, Mapping[str, str]] | None = None,
    wait: float = 60,
    names: Sequence[str] = NAMES,
    **change: Sequence[Any],
) -> dict[str, Process]:
    """A federation's processes, the leader's first, each with its kit and rows.

    Args:
        folder: With the kits and the rows.
        words: METHOD and what the leader is given.
        served: Whether a server leads, and not the first site.
        variables: Of a site's environment, by name.
        wait: Seconds that all wait for one another.
        names: Of the sites.
        change: What a site is given beside its rows, by name.
    """
    return {
        name: started(folder, name, words, served, (variables or {}).get(name), wait, change.get(name, ()))
        for name in (*(["server"] if served else []), *names)
    }


def started(
    folder: Path,
    name: str,
    words: Sequence[Any],
    served: bool,
    variables: Mapping[str, str] | None = None,
    wait: float = 60,
    change: Sequence[Any] = (),
) -> Process:
    """One of a federation's processes; what it says goes on in the log of its predecessor."""
    there = ["--dataset", "npz", "--data-dir", folder / f"{name}.npz"]
    kit = folder / "kits" / name
    if name == "server":
        own = ["server", kit, *words]
    elif served or name != NAMES[0]:
        own = ["site", kit, *there]
    else:
        own = ["start", kit, *words, *there]
    return Process([*own, "--wait", wait, *change], folder / f"{name}.log", variables)


def rounds(out: Path) -> list[dict[str, Any]]:
    """A record without the clock."""
    return tiny.timeless([json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()])
