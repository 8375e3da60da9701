"""Record: the folder that a run leaves, with its manifest, its rounds and its model."""

import json
import math
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fedtangent import __version__, catalog
from fedtangent.experiments import atomic
from fedtangent.experiments.options import plain
from fedtangent.experiments.setup import Setup
from fedtangent.fleet import Central, Each
from fedtangent.ledger import Ledger
from fedtangent.multiply_adds import Counting
from fedtangent.shard import at
from fedtangent.task import Weights

MANIFEST, ROUNDS, MODEL = "manifest.json", "rounds.jsonl", "model.safetensors"


def manifest(built: Setup) -> dict[str, Any]:
    """What was true of a run: its experiment, and what it ran on."""
    graph = built.graph(1)
    return {
        "experiment": built.description,
        "fingerprint": built.fingerprint,
        "versions": {
            "fedtangent": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "threads": torch.get_num_threads(),
        "chunks": built.fleet(1, Ledger()).chunks(),
        "machine": _machine(built),
        **({} if built.engine_reason is None else {"engine_reason": built.engine_reason}),
        "exposure": built.method.exposure,
        "parameters": built.task.size,
        "forward_multiply_adds": _forward(built),
        "inputs": built.inputs,
        "outputs": built.classes or built.y_test.shape[1],
        "rows": [len(data.real) for data in built.data],
        "labels": _histogram(built),
        "edges": None if graph is None else [list(edge) for edge in graph.edges],
    }


def claimed(folder: Path, run: Mapping[str, Any], resume: bool) -> Path:
    """The folder, made ready for this run.

    Args:
        folder: Where the run is to be recorded.
        run: The run's manifest.
        resume: Whether a run of the same experiment may be there already.

    Raises:
        ValueError: The folder holds something else.
        OSError: It cannot be written.
    """
    path = folder / MANIFEST
    if path.is_file():
        _check_same(folder, _read(path), run, resume)
        return folder
    if folder.exists() and (not folder.is_dir() or any(not file.name.startswith(".") for file in folder.iterdir())):
        raise ValueError(
            f"`out` must be a new folder, or one with a run; got {folder}, which holds something else. Name another."
        )
    with atomic.explained(path):
        folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(run, indent=1, sort_keys=False)
    atomic.replaced(path, lambda draft: _write(draft, text))
    return folder


def line(measured: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """A round's entry: what was measured, and what the method adds, as JSON holds it."""
    added = {name: _compact(value) for name, value in extra.items()}
    clash = sorted(set(measured) & set(added))
    if clash:
        raise ValueError(f"a method must not record {clash[0]!r}; the experiment does. Choose another name.")
    return {**{name: _finite(value) for name, value in measured.items()}, **added}


def append(folder: Path, entry: Mapping[str, Any]) -> None:
    """Adds a round to the folder's record.

    Raises:
        OSError: It cannot be written.
    """
    atomic.appended(folder / ROUNDS, (json.dumps(entry, allow_nan=False) + "\n").encode())


def cut(folder: Path, count: int) -> list[dict[str, Any]]:
    """The first `count` rounds of a folder; what a killed run wrote after its checkpoint is dropped.

    Raises:
        ValueError: There are fewer, or one of them is damaged.
    """
    path = folder / ROUNDS
    lines = path.read_bytes().splitlines(keepends=True)[:count] if path.exists() else []
    rounds: list[dict[str, Any]] = []
    with suppress(ValueError):
        rounds += map(json.loads, lines)
    if len(rounds) < count:
        raise ValueError(
            f"`out` must hold the {count} rounds of its checkpoint; got {len(rounds)} whole ones in {path}. "
            "Run anew with another --out."
        )
    atomic.replaced(path, lambda draft: _write(draft, b"".join(lines).decode()))
    return rounds


def save_model(folder: Path, built: Setup, weights: Weights) -> None:
    """Writes the aggregated model, with what it takes to build it again.

    Raises:
        OSError: It cannot be written; the one before is still there.
    """
    described = built.description
    how = {
        "model": described["model"] if isinstance(built.experiment.model, str) else None,
        "file": str(built.experiment.model).endswith(".py"),
        "options": described["model_options"],
        "inputs": built.inputs,
        "outputs": built.classes or built.y_test.shape[1],
        "dtype": described["dtype"],
    }
    tensors = {name: w.detach().cpu().clone().contiguous() for name, w in weights.items()}
    atomic.replaced(folder / MODEL, lambda path: save_file(tensors, path, {"fedtangent": json.dumps(how)}))


def load(folder: str | Path, model: nn.Module | None = None) -> nn.Module:
    """The aggregated model that a run left, in eval mode.

    Args:
        folder: The run's.
        model: Your own module, where the run had one; the weights are put into it.

    Raises:
        ValueError: No model there, a damaged one, or one that is not of this module.
    """
    path = Path(folder) / MODEL
    try:
        with safe_open(path, framework="pt") as file:
            how = json.loads(file.metadata()["fedtangent"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"`folder` must be a run's folder with a whole {MODEL}; got {folder} ({type(error).__name__}: {error}). "
            "Give the folder that a run wrote with `out`."
        ) from error
    if model is None:
        if how["model"] is None or how["file"]:
            raise ValueError(
                f"`model` must be given for {folder}, whose run had a model of its own; got none. "
                "Pass a module of the same shape."
            )
        build = catalog.load("models", how["model"])
        options = {name: tuple(v) if isinstance(v, list) else v for name, v in how["options"].items()}
        model = build(tuple(how["inputs"]), how["outputs"], np.random.default_rng(0), **options)
        model = model.to(getattr(torch, how["dtype"]))
    own = _tensors(model)
    if any(name not in own or own[name].shape != w.shape for name, w in weights.items()):
        raise ValueError(f"`model` must have the parameters of the run in {folder}; got others. Pass a module like it.")
    return filled(model, weights)


def filled(model: nn.Module, weights: Weights) -> nn.Module:
    """The model with these weights, in eval mode."""
    own = _tensors(model)
    with torch.no_grad():
        for name, w in weights.items():
            own[name].copy_(w)
    return model.eval()


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Its parameters, and batch norm's statistics."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _check_same(folder: Path, there: Mapping[str, Any], run: Mapping[str, Any], resume: bool) -> None:
    old, new = _leaves(there["experiment"]), _leaves(run["experiment"])
    for name in {**new, **old}:
        if old.get(name) != new.get(name):
            raise ValueError(
                f"`out` must not hold another experiment; got {folder}, whose {name} is {old.get(name)!r} and not "
                f"{new.get(name)!r}. Choose another --out or set it so."
            )
    if not resume:
        raise ValueError(f"`out` must be new; got {folder}, which holds this run. Give --resume or another --out.")
    if there.get("fingerprint") != run["fingerprint"]:
        raise ValueError(
            f"`out` must not hold another experiment; got {folder}, whose data or first weights differ. "
            "Choose another --out."
        )
    if there.get("threads") != run["threads"]:
        raise ValueError(
            f"a run must be resumed with the threads it began with, {there.get('threads')}; got {run['threads']}. "
            f"Set OMP_NUM_THREADS={there.get('threads')}."
        )
    if there.get("chunks") != run["chunks"]:
        raise ValueError(
            f"a run must be resumed with the chunks of nodes it began with; got others in {folder}. "
            "Use the version that began it, or another --out."
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        there = json.loads(path.read_bytes())
        _leaves(there["experiment"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"`out` must hold a whole {path.name}; got a damaged one in {path.parent}. Name another."
        ) from error
    return dict(there)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= _leaves(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _finite(value: Any) -> Any:
    """JSON knows neither NaN nor infinity: they are recorded as null."""
    if isinstance(value, list):
        return [_finite(part) for part in value]
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _compact(value: Any) -> Any:
    """What a method records, as JSON: one entry a node of an Each, numbers with seven digits."""
    if isinstance(value, Each):
        return [_compact(part) for part in value.values]
    if isinstance(value, Central):
        return _compact(value.value)
    if isinstance(value, Tensor):
        return _compact(value.tolist())
    if isinstance(value, float):
        return _finite(float(f"{value:.7g}"))
    if isinstance(value, (list, tuple)):
        return [_compact(part) for part in value]
    return {name: _compact(part) for name, part in value.items()} if isinstance(value, Mapping) else plain(value)


def _histogram(built: Setup) -> list[list[int]] | None:
    if not built.classes:
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
