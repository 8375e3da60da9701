"""Tracking: the rounds of a run in trackers, each of which goes on with its own run when the record does.

Which rounds a tracker has stands in the record's `trackers.json`: after a kill it is given those that it lacks.
"""

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from fedtangent import catalog
from fedtangent.errors import SettingError, SettingTypeError, UserError
from fedtangent.experiments import atomic, model_file
from fedtangent.experiments.folder import MANIFEST
from fedtangent.own import called, check_takes
from fedtangent.trackers._tracker import Run, Tracker

STATE = "trackers.json"


class Tracking:
    """The trackers of one run."""

    def __init__(self, names: Sequence[str], out: str | Path | None, page: Callable[[Path], Path] | None) -> None:
        """Finds the trackers.

        Args:
            names: Theirs, or files of the user's own.
            out: The folder of the record.
            page: Writes the run's page in the folder, and gives its path.

        Raises:
            ValueError: There is no folder to write to, or one of them is not there, is named twice or not installed.
        """
        names = list(names)
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise SettingError(f"`track` must name each tracker once; got {twice[0]!r} twice. Drop one.")
        if names and out is None:
            asked = "tensorboard" if names == ["tensorboard"] else "track"
            raise SettingError(f"`{asked}` must have a folder to write to; got no `out`. Give --out.")
        self._begin = {Path(name).stem: called("track", catalog.load("trackers", name, "track"), "") for name in names}
        for begin in self._begin.values():
            check_takes("track", begin, "run", None)
        self._folder, self._page = Path(out or "."), page
        self._open: dict[str, Tracker] = {}
        self._state: dict[str, dict[str, Any]] = {}

    def begin(self, manifest: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]) -> None:
        """Begins with the run, or goes on with it, and gives every tracker the rounds that it lacks.

        Raises:
            ValueError: A tracker cannot be written.
        """
        if not self._begin:
            return
        self._state = _read(self._folder / STATE)
        told = manifest["experiment"]
        name = f"{told['method']} on {told['dataset']}, seed {told['seed']}"
        for tracker, begin in self._begin.items():
            before = self._state.get(tracker, {})
            run = Run(self._folder, name, _flat(manifest), before.get("id"), min(before.get("rounds", 0), len(rounds)))
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    self._open[tracker] = _checked(tracker, begin(run))
            except UserError:
                raise
            except Exception as error:  # of whatever library it is
                new = "" if run.id is None else f", or remove {STATE} from the folder to begin anew there"
                raise SettingError(
                    f"`track` must name trackers that can be written; got {tracker}: {_short(error)}. Mend its settings"
                    f"{new}, or leave it out."
                ) from error
            self._state[tracker] = {"id": self._open[tracker].id, "rounds": run.rounds}
        self._keep()
        for entry in rounds:
            self.log(entry)

    def log(self, entry: Mapping[str, Any]) -> None:
        """Gives a round's numbers to the trackers that lack it; one that fails is told of, and left out after that."""
        k = entry["round"]
        numbers = {name: float(value) for name, value in _leaves(entry) if name != "round" and _is_number(value)}
        for name, tracker in [*self._open.items()]:
            if self._state[name]["rounds"] < k and self._done(name, k, partial(tracker.log, k, numbers)):
                self._state[name]["rounds"] = k
        if self._open:
            self._keep()

    def finish(self, well: bool) -> None:
        """Gives them the run's files, and ends."""
        if not self._open:
            return
        files = []
        if well:
            page = [] if self._page is None else [self._page(self._folder)]
            files = [
                path for path in (self._folder / MANIFEST, self._folder / model_file.NAME, *page) if path.is_file()
            ]
        for name, tracker in [*self._open.items()]:
            self._done(name, self._state[name]["rounds"], partial(tracker.finish, files, well))
        self._open.clear()

    def _done(self, name: str, k: int, call: Callable[[], None]) -> bool:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                call()
        except Exception as error:  # the record is worth more
            self._open.pop(name, None)
            print(
                f"fedtangent: {name} could not be written after round {k} ({_short(error)}); the run goes on without "
                "it, and --resume gives it what it lacks.",
                file=sys.stderr,
                flush=True,
            )
            return False
        return True

    def _keep(self) -> None:
        atomic.replaced(self._folder / STATE, json.dumps(self._state, indent=1))


def _checked(name: str, begun: Any) -> Tracker:
    if not isinstance(begun, Tracker) or not isinstance(begun.id, str):
        got = f"the id {begun.id!r}" if isinstance(begun, Tracker) else type(begun).__name__
        raise SettingTypeError(
            f"`track` must give a Tracker of a run, whose id is a text; got {got} from {name}. Return one, as the "
            "files of fedtangent.trackers do."
        )
    return begun


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """What the trackers have, where the file tells it."""
    if not path.is_file():
        return {}
    with suppress(ValueError, RecursionError):
        told = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(told, dict) and all(
            isinstance(one, dict) and isinstance(one.get("id"), str) and type(one.get("rounds")) is int
            for one in told.values()
        ):
            return told
    raise SettingError(f"`out` must hold the {STATE} that its run wrote; got another in {path.parent}. Remove it.")


def _flat(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that there are, one level deep, and what else was true of the run."""
    found: dict[str, Any] = {}
    for name, value in manifest["experiment"].items():
        found |= {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, Mapping) else {name: value}
    found |= {name: manifest[name] for name in ("exposure", "parameters")}
    return {name: value for name, value in found.items() if value is not None}


def _leaves(entry: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a round's entry holds, and by dotted names what its objects do."""
    for name, value in entry.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", part) for inner, part in _leaves(value))
        else:
            yield name, value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160].rstrip('.')}"
