"""What a run left behind: its manifest and its rounds, read, checked and grouped by experiment."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedtangent.errors import SettingError
from fedtangent.reports import schema

Measure = Literal["accuracy", "loss"]

# These change how long or where a run computes, not what it learns: no reason to tell two methods' names apart by them.
_NOT_THE_TASK = ("method", "options", "host", "host_options", "rounds", "engine", "device", "seed")

_LONGEST = 80  # letters of a setting in a label


@dataclass(frozen=True)
class Record:
    """One run.

    Attributes:
        folder: The run's folder.
        manifest: Its resolved experiment and what else was true of the run.
        rounds: One mapping a round, in order.
    """

    folder: Path
    manifest: dict[str, Any]
    rounds: list[dict[str, Any]]

    @property
    def experiment(self) -> dict[str, Any]:
        """The resolved experiment: method, options, data, partition, topology, seed."""
        experiment: dict[str, Any] = self.manifest["experiment"]
        return experiment


@dataclass(frozen=True)
class Group:
    """The runs of one experiment, which differ only in their seed.

    Attributes:
        label: The method, and those of its settings that tell it from the other groups.
        records: One run a seed.
    """

    label: str
    records: tuple[Record, ...]

    @property
    def experiment(self) -> dict[str, Any]:
        """The experiment of the first run."""
        return self.records[0].experiment

    @property
    def sends(self) -> bool:
        """Whether it sends round after round; `local` sends nothing, and `central` its rows in the first round only."""
        sent = [[row["sent_bytes"] for row in record.rounds] for record in self.records]
        return any(total[-1] > (total[0] if len(total) > 1 else 0) for total in sent if total)


def read(folder: str | Path) -> Record:
    """The record in a run's folder; a last line that a crash tore is left out.

    Raises:
        ValueError: Not a run's folder, or a file in it that is damaged.
    """
    folder = Path(folder)
    missing = [name for name in ("manifest.json", "rounds.jsonl") if not (folder / name).is_file()]
    if missing:
        raise SettingError(
            f"`folder` must be a run's folder; got {folder}, which has no {missing[0]}. "
            "Give the folder that a run wrote with `--out`."
        )
    return Record(folder, _manifest(folder / "manifest.json"), _rounds(folder / "rounds.jsonl"))


def rounds_to(record: Record, target: float) -> int | None:
    """The first round whose accuracy is at least `target` (in a regression, whose loss is at most that), or None."""
    row = _first(record, target)
    return None if row is None else row["round"]


def bytes_to(record: Record, target: float) -> int | None:
    """The bytes that everyone had sent by the round of `rounds_to`, or None."""
    row = _first(record, target)
    return None if row is None else row["sent_bytes"]


def measure(records: Sequence[Record]) -> Measure:
    """What these runs are judged by: `accuracy`, or `loss` in a regression, where no accuracy exists.

    Raises:
        ValueError: Some of the runs are of the one kind and some of the other.
    """
    kinds: set[Measure] = {_measure(record) for record in records if record.rounds}
    if len(kinds) > 1:
        strange = next(r.folder.name for r in records if r.rounds and _measure(r) == "loss")
        raise SettingError(
            f"`records` must all have an accuracy, or none; got none in {strange}. Report regressions on their own."
        )
    return kinds.pop() if kinds else "accuracy"


def groups(records: Sequence[Record]) -> list[Group]:
    """The records by experiment without seed, in order of appearance, each with a label of its own.

    Raises:
        ValueError: No record, or the same experiment and seed twice, which would feign a small deviation.
    """
    if not records:
        raise SettingError("`records` must hold at least one run; got none. Give the folder of a run.")
    by_settings: dict[str, list[Record]] = {}
    for record in records:
        by_settings.setdefault(json.dumps(_without_seed(record), sort_keys=True), []).append(record)
    for runs in by_settings.values():
        _check_seeds(runs)
    labels = _labels([flat(_without_seed(runs[0])) for runs in by_settings.values()])
    return [Group(label, tuple(runs)) for label, runs in zip(labels, by_settings.values(), strict=True)]


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by their dotted path."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves


def _measure(record: Record) -> Measure:
    return "loss" if all(row.get("accuracy") is None for row in record.rounds) else "accuracy"


def _first(record: Record, target: float) -> dict[str, Any] | None:
    key = _measure(record)
    # The comparisons are false of NaN, so a diverged round never reaches anything.
    sign = 1 if key == "accuracy" else -1
    return next((row for row in record.rounds if row.get(key) is not None and sign * row[key] >= sign * target), None)


def _manifest(path: Path) -> dict[str, Any]:
    try:
        return schema.manifest(path.read_bytes())
    except ValueError as error:
        raise SettingError(f"{path} must {error}. Run the experiment again.") from error


def _rounds(path: Path) -> list[dict[str, Any]]:
    *lines, last = path.read_bytes().split(b"\n")
    rounds: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        rounds.append(_row(path, number, line, rounds))
    # A complete file ends with a line break, so what follows the last one is a line that was being written.
    with contextlib.suppress(ValueError):
        rounds += [_row(path, len(lines) + 1, last, rounds)] if last else []
    return rounds


def _row(path: Path, number: int, line: bytes, before: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    try:
        row = schema.row(line)
        if row["round"] > (before[-1]["round"] if before else 0):
            return row
        rule = "a later round than the line before"
    except ValueError as error:
        rule = str(error)
    raise SettingError(
        f"{path}, line {number}, must be {rule}; got {line[:60].decode(errors='replace')!r}. "
        "Resume the run: it restores the file from its checkpoint."
    )


def _without_seed(record: Record) -> dict[str, Any]:
    return {key: value for key, value in record.experiment.items() if key != "seed"}


def _check_seeds(runs: Sequence[Record]) -> None:
    seen: dict[Any, Record] = {}
    for run in runs:
        seed = run.experiment.get("seed")
        if seed in seen:
            raise SettingError(
                f"`records` must hold an experiment and seed once; got {run.experiment['method']} with seed {seed} in "
                f"{seen[seed].folder} and {run.folder}. Drop one of the two folders."
            )
        seen[seed] = run


def _labels(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = sorted({key for setting in settings for key in setting})
    task = [key for key in keys if key.split(".")[0] not in _NOT_THE_TASK]
    # A server method has no topology: only a value that differs, not one that is absent, sets two methods apart.
    telling = {key for key in task if len(_values(key, settings) - {"null"}) > 1}
    labels: list[str] = []
    for setting in settings:
        peers = [other for other in settings if other["method"] == setting["method"]]
        shown = [key for key in keys if key in telling or len(_values(key, peers)) > 1]
        parts = [f"{key.split('.')[-1]}={_text(setting[key])}" for key in shown if setting.get(key) is not None]
        label = " ".join([setting["method"], *parts])
        labels.append(label if label not in labels else f"{label} ({1 + sum(x.startswith(label) for x in labels)})")
    return labels


def _values(key: str, settings: Sequence[Mapping[str, Any]]) -> set[str]:
    return {json.dumps(setting.get(key), sort_keys=True) for setting in settings}


def _text(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}\N{HORIZONTAL ELLIPSIS}"
