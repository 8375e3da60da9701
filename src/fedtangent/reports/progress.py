"""How far a command is, on stderr: a bar or a line that is written anew on a terminal, plain lines elsewhere."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from fedtangent.experiments.dry_run import Needs
from fedtangent.experiments.setup import Setup
from fedtangent.reports import statistics
from fedtangent.reports.console import Console

_LONG, _MUCH = 3600, 10**12  # seconds, bytes
_CHEAPER = (
    "Fewer --rounds or --nodes, a smaller --model, --channel and --evaluate-nodes-every 10 take less, "
    "and --dry-run estimates it before."
)


def _took(entry: Mapping[str, Any]) -> str:
    return f"{entry['seconds']:.2f} s" if entry["seconds"] < 60 else statistics.time_text(entry["seconds"])


@contextmanager
def rounds(built: Setup) -> Iterator[Callable[[dict[str, Any]], None]]:
    """What tells a run's rounds: a bar, or a line a round."""
    console, rounds, name = Console(stderr=True), built.experiment.rounds, built.description["method"]

    def words(entry: dict[str, Any]) -> str:
        key = "accuracy" if built.classes else "loss"
        value = "-" if entry[key] is None else f"{entry[key]:.4f}"
        there = f"  {entry['present']} present" if "present" in entry else ""
        return f"round {entry['round']}/{rounds}  {key} {value}  {statistics.bytes_text(entry['sent_bytes'])}{there}"

    if not console.is_terminal:
        yield lambda entry: print(f"{name}  {words(entry)}  {_took(entry)}", file=sys.stderr, flush=True)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[said]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(name, total=rounds, said="")
        yield lambda entry: progress.update(task, completed=entry["round"], said=words(entry))


def foretold(needs: Needs | None, rounds: int, runs: int) -> bool:
    """Whether some runs are foreseen to take hours or to send terabytes; then it has been told, before they begin."""
    if needs is None or (runs * needs.seconds < _LONG and runs * needs.total_bytes < _MUCH):
        return False
    each = f"{rounds} rounds" if runs == 1 else f"{runs} runs of {rounds} rounds"
    _warn(f"{each} will take", runs * needs.seconds, runs * needs.total_bytes)
    return True


def patience(built: Setup) -> Callable[[dict[str, Any]], None]:
    """What warns, once, of a run that takes hours more or sends terabytes, as soon as its rounds show it."""
    schedule, total = built.method.schedule, built.experiment.rounds
    seen: list[tuple[int, float, int]] = []
    told = False

    def warn(entry: dict[str, Any]) -> None:
        nonlocal told
        seen.append((entry["round"], time.monotonic(), entry["sent_bytes"]))
        left, over = total - entry["round"], len(seen) - 1
        if told or over < schedule.opening + schedule.cycle or left < 1:  # what opens a run says nothing of the rest
            return
        first = seen[-1 - schedule.cycle]
        seconds = left * (seen[-1][1] - first[1]) / schedule.cycle
        sent = left * (seen[-1][2] - first[2]) / schedule.cycle
        if seconds >= _LONG or sent >= _MUCH:
            told = True
            _warn(f"{left} rounds are left,", seconds, sent)

    return warn


def _warn(what: str, seconds: float, sent: float) -> None:
    long, much = statistics.time_text(seconds), statistics.bytes_text(sent)
    print(f"fedtangent: {what} about {long} and {much} of messages. {_CHEAPER}", file=sys.stderr, flush=True)


@contextmanager
def rows(name: str) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """What tells a recipe's rows: a line with the latest one, or a line a second at most."""
    console, last = Console(stderr=True), -math.inf

    def words(row: Mapping[str, Any]) -> str:
        said = (f"{key} {f'{value:.4g}' if isinstance(value, float) else value}" for key, value in row.items())
        return "  ".join([name, *said])

    def tell(row: Mapping[str, Any]) -> None:
        nonlocal last
        if time.monotonic() > last + 1:
            last = time.monotonic()
            print(words(row), file=sys.stderr, flush=True)

    if not console.is_terminal:
        yield tell
        return
    with console.status(name) as status:
        yield lambda row: status.update(Text(words(row), overflow="ellipsis", no_wrap=True))
