"""Same: whether the run in a folder is the one that is asked for, and would go on to the same record here."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedtangent.errors import SettingError
from fedtangent.experiments.folder import MANIFEST
from fedtangent.experiments.parts import ALIKE
from fedtangent.experiments.tensor_file import printable


def check(folder: Path, run: Mapping[str, Any], resume: bool) -> bool:
    """Whether the folder's run is to have more rounds than it was begun with; raises one sentence about all else.

    Args:
        folder: With a manifest.
        run: The manifest of what is to be recorded there.
        resume: Whether the folder's run is to be gone on with.

    Raises:
        ValueError: Another experiment, version or source, or a damaged manifest; or the same, and not to be resumed.
    """
    there, now = _read(folder / MANIFEST), json.loads(json.dumps(run))
    longer = _longer(there["experiment"], now["experiment"])
    if longer and resume:
        there["experiment"] = {**there["experiment"], "rounds": now["experiment"]["rounds"]}
    old, new = _leaves(there["experiment"]), _leaves(now["experiment"])
    for name in {**new, **old}:
        before, after = old.get(name), new.get(name)
        if not _equal(before, after):
            raise SettingError(
                f"`out` must not hold another experiment; got {folder}, whose {printable(name)[:80]} is "
                f"{short(before)} and not {short(after)}. "
                + (
                    "Give --resume to go on with it."
                    if longer and name == "rounds"
                    else "Choose another --out or set it so."
                )
            )
    if not resume:
        raise SettingError(f"`out` must be new; got {folder}, which holds this run. Give --resume or another --out.")
    check_versions(folder, there, now)
    for part in {**now["sources"], **_dict(there.get("sources"))}:
        check_source(folder, part, _dict(there.get("sources")).get(part), now["sources"].get(part))
    if not _equal(there.get("chunks"), now["chunks"]):
        raise SettingError(
            f"a run must be resumed with the chunks of nodes it began with; got others in {folder}. "
            "Give it the memory that it had, or another --out."
        )
    if not _equal(there.get("fingerprint"), now["fingerprint"]):
        raise SettingError(
            f"`out` must not hold another experiment; got {folder}, whose data or first weights differ. "
            "Choose another --out."
        )
    for name in sorted(now.keys() - {"machine", "versions", "engine_reason", ALIKE}):
        if not _equal(there.get(name), now[name]):
            raise SettingError(
                f"`out` must hold the {MANIFEST} that its run wrote; got another {name} in {folder}. Choose another "
                "--out."
            )
    return longer


def check_versions(folder: Path, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises where what was begun with other versions, or another number of threads, is to be gone on with."""
    for name, version in now["versions"].items():
        before = _dict(there.get("versions")).get(name)
        same = before == version
        if name == "python" and isinstance(before, str):  # a patch release computes the same
            same = before.split(".")[:2] == version.split(".")[:2]
        if not same:
            raise SettingError(
                f"a run must be resumed under the versions it began with, {name} {short(before)} in {folder}; got "
                f"{version!r}. Install that version, or run anew with another --out."
            )
    if not _equal(there.get("threads"), now["threads"]):
        threads = short(there.get("threads"))
        raise SettingError(
            f"a run must be resumed with the threads it began with, {threads}; got {now['threads']}. "
            f"Set OMP_NUM_THREADS={threads}."
        )


def check_source(folder: Path, part: str, before: Any, now: Mapping[str, str] | None) -> None:
    """Raises where a file, function or module was edited since; both as in `sources`."""
    old, new = _dict(before).get("digest"), now or {}
    if old != new.get("digest"):
        raise SettingError(
            f"`{printable(part)[:80]}` must be as it was when the run in {folder} began; got {new.get('name', 'none')} "
            f"with the digest {new.get('digest')} and not {short(old)}. Undo the edit, or run anew with another --out."
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        there = json.loads(path.read_bytes())
        _leaves(there["experiment"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SettingError(
            f"`out` must hold a whole {path.name}; got a damaged one in {path.parent}. Name another."
        ) from error
    return dict(there)


def _longer(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether the second experiment has more rounds."""
    old, new = before.get("rounds"), after.get("rounds")
    return type(old) is type(new) is int and old < new


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= _leaves(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _equal(old: Any, new: Any) -> bool:
    """As JSON, where 1 is not true, nor 1.0, and NaN is NaN."""
    return json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def short(value: Any) -> str:
    """A value as Python writes it, in one line that is not long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
