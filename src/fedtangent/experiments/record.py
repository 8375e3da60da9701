"""Record: the folder that a run leaves, with its manifest and its rounds."""

import hashlib
import json
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.experiments import atomic, lock, same
from fedtangent.experiments.folder import MANIFEST, check_free, versions
from fedtangent.experiments.parts import ALIKE
from fedtangent.experiments.setup import Setup
from fedtangent.experiments.sources import named_alike
from fedtangent.federation import Central, Each, Rule
from fedtangent.multiply_adds import Counting
from fedtangent.shard import at

ROUNDS = "rounds.jsonl"
version = cache(metadata.version)


def manifest(built: Setup) -> dict[str, Any]:
    """What was true of a run: its experiment, and what it ran on."""
    graph, described = built.graph(1), built.description
    alike = named_alike(built.experiment, described)
    return {
        "experiment": described,
        "fingerprint": built.fingerprint,
        "sources": built.sources,
        **({ALIKE: alike} if alike else {}),
        "versions": {**versions(), **{name: version(name) for name in ("networkx", "scipy")}},
        "threads": torch.get_num_threads(),
        "chunks": _chunks(built.alone()),
        "machine": _machine(built),
        **({} if built.engine_reason is None else {"engine_reason": built.engine_reason}),
        "exposure": built.method.exposure,
        **({} if built.rule is None else {"rule_sees": rule_sees(built.rule)}),
        **({} if built.liars is None else {"liars": sorted(built.liars.nodes)}),
        "parameters": built.task.size,
        "forward_multiply_adds": _forward(built),
        "inputs": built.inputs,
        "outputs": built.classes or built.y_test.shape[1],
        "rows": [len(data.real) for data in built.data],
        "labels": _histogram(built),
        "edges": None if graph is None else [list(edge) for edge in graph.edges],
    }


def rule_sees(rule: Rule) -> str:
    """What a rule is given of its senders, which secure sums would hide."""
    return "single messages" if rule.groups == 1 else f"sums over groups of {rule.groups} clients"


def _chunks(built: Setup) -> list[list[int]]:
    """The nodes that one process would compute together."""
    return [list(wave.nodes) for wave in built.fleet(1, built.wire()).waves]


@contextmanager
def claimed(folder: Path, run: Mapping[str, Any], resume: bool) -> Iterator[Path]:
    """The folder, made ready for this run, and its own until the context ends.

    Args:
        folder: Where the run is to be recorded.
        run: The run's manifest.
        resume: Whether a run of the same experiment may be there already.

    Raises:
        ValueError: The folder holds something else, or another process records there.
        OSError: It cannot be written.
    """
    path = folder / MANIFEST
    check_free(folder, "a run")
    with lock.held(folder):
        check_free(folder, "a run")
        if path.is_file():
            if same.check(folder, run, resume):  # and else what was true when it began
                atomic.replaced(path, _text({**json.loads(path.read_bytes()), "experiment": run["experiment"]}))
        else:
            atomic.replaced(path, _text(run))
        yield folder


def line(measured: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """A round's entry: what was measured, and what the method adds, as JSON holds it."""
    added = {str(name): _compact(str(name), value) for name, value in extra.items()}
    clash = sorted(set(measured) & set(added))
    if clash:
        raise SettingError(f"a method must not record {clash[0]!r}; the experiment does. Choose another name.")
    return {**{name: _finite(value) for name, value in measured.items()}, **added}


def append(folder: Path, entry: Mapping[str, Any]) -> str:
    """Adds a round to the folder's record; the digest of its line, for the checkpoint.

    Raises:
        OSError: It cannot be written.
    """
    text = (json.dumps(entry, allow_nan=False) + "\n").encode()
    atomic.appended(folder / ROUNDS, text)
    return _digest(text)


def cut(folder: Path, digests: Sequence[str]) -> list[dict[str, Any]]:
    """The first rounds of a folder; what a killed run wrote after its checkpoint is dropped.

    Args:
        folder: The run's.
        digests: Of the lines, from `append`.

    Raises:
        ValueError: There are fewer, or one of them is not what the run wrote.
    """
    path, count = folder / ROUNDS, len(digests)
    lines = path.read_bytes().splitlines(keepends=True)[:count] if path.exists() else []
    rounds: list[dict[str, Any]] = []
    with suppress(ValueError, RecursionError):
        rounds += map(json.loads, lines)
    if len(rounds) < count:
        raise SettingError(
            f"`out` must hold the {count} rounds of its checkpoint; got {len(rounds)} whole ones in {path}. "
            "Run anew with another --out."
        )
    for number, (line, digest) in enumerate(zip(lines, digests, strict=True), 1):
        if _digest(line) != digest:
            raise SettingError(
                f"`out` must hold the rounds as its run wrote them; got another line {number} in {path}. "
                "Run anew with another --out."
            )
    atomic.replaced(path, b"".join(lines).decode())
    return rounds


def _text(run: Mapping[str, Any]) -> str:
    return json.dumps(run, indent=1, sort_keys=False)


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:16]


def _finite(value: Any) -> Any:
    """JSON knows neither NaN nor infinity: they are recorded as null."""
    if isinstance(value, list):
        return [_finite(part) for part in value]
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _compact(name: str, value: Any) -> Any:
    """What a method records, as JSON: one entry a node of an Each, numbers with seven digits.

    Raises:
        TypeError: What JSON has no form for.
    """
    if isinstance(value, Each):
        return [_compact(name, part) for part in value.values]
    if isinstance(value, Central):
        return _compact(name, value.value)
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return _compact(name, value.tolist())
    if isinstance(value, float):
        return _finite(float(f"{value:.7g}"))
    if isinstance(value, (list, tuple)):
        return [_compact(name, part) for part in value]
    if isinstance(value, Mapping):
        return {str(key): _compact(name, part) for key, part in value.items()}
    if value is None or isinstance(value, (bool, str)) or (isinstance(value, int) and abs(value) < 2**1000):
        return value
    got = f"{value.bit_length()} bits" if isinstance(value, int) else type(value).__name__
    raise SettingTypeError(
        f"`{name}` must be recorded as numbers, texts, or lists or dicts of them; got {got}. Convert it."
    )


def _histogram(built: Setup) -> list[list[int]] | None:
    """Every node's labels by class, where they are known."""
    if not built.classes or built.share is not None:  # of other sites nobody knows
        return None
    return [torch.bincount(data.y.cpu(), minlength=built.classes).tolist() for data in built.data]


def _forward(built: Setup) -> int:
    """The multiply-adds of one row's forward pass."""
    with torch.no_grad(), Counting() as counting:
        built.task.predict(built.task.w_0, at(built.x_test, slice(0, 2)))  # batch norm takes no single row
    return int(counting.total) // len(built.y_test[:2])


def _machine(built: Setup) -> dict[str, Any]:
    cpus = Path("/proc/cpuinfo")
    names = [text for text in cpus.read_text().splitlines() if text.startswith("model name")] if cpus.is_file() else []
    name = names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
    found: dict[str, Any] = {"processor": name, "cores": os.cpu_count()}
    if torch.device(built.experiment.device).type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(built.experiment.device)
    return found
