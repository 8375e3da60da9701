"""Run folders such as the experiments leave behind, with curves of the usual shape."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np

from fedtangent.reports import records

Run = Callable[..., records.Record]


def folder(
    parent: Path,
    method: str = "dfedavg",
    seed: int = 0,
    *,
    rounds: int = 12,
    nodes: int = 10,
    speed: float = 0.3,
    top: float = 0.9,
    round_bytes: int = 1_234_567,
    options: dict[str, Any] | None = None,
    exposure: str = "aggregate",
    kind: str = "accuracy",
    experiment: dict[str, Any] | None = None,
    manifest: dict[str, Any] | None = None,
    accuracies: list[float] | None = None,
    planned: int | None = None,
    round_work: int | None = None,
    node_accuracy: Sequence[float] | None = None,
    class_accuracy: Sequence[float | None] | None = None,
) -> Path:
    """A run's folder whose accuracy rises, or loss falls, exponentially towards its limit."""
    rng = np.random.default_rng([seed, len(method), nodes])
    talks = method not in ("central", "local")
    described = {
        "method": method,
        "options": options or {},
        "dataset": "digits",
        "partition": "dirichlet",
        "partition_options": {"alpha": 0.1},
        "nodes": nodes,
        "topology": "regular" if talks else None,
        "topology_options": {"degree": 4} if talks else {},
        "model": "mlp",
        "model_options": {"width": 100},
        "rounds": planned or rounds,
        "seed": seed,
        **(experiment or {}),
    }
    labels = rng.multinomial(127, rng.dirichlet([0.1] * 10, size=nodes))
    graph = nx.random_regular_graph(4, nodes, seed=seed) if talks else None
    lines = []
    for k in range(1, (len(accuracies) if accuracies else rounds) + 1):
        risen = 1 - math.exp(-speed * k)
        accuracy = accuracies[k - 1] if accuracies else 0.1 + (top - 0.1) * risen + 0.006 * float(rng.normal())
        loss = 2.3 * math.exp(-speed * k) + 0.21 + 0.01 * float(rng.normal())
        classes = kind == "accuracy"
        lines.append(
            {
                "round": k,
                "accuracy": accuracy if classes else None,
                "mean_node_accuracy": max(0.0, accuracy - 0.07) if classes else None,
                "worst_tenth_accuracy": max(0.0, accuracy - 0.19) if classes else None,
                "loss": loss,
                "sent_bytes": round_bytes * k if talks else 0,
                "seconds": 0.4 + 0.05 * float(rng.random()),
                "node_accuracy": None if node_accuracy is None else list(node_accuracy),
                "class_accuracy": None if class_accuracy is None else list(class_accuracy),
                **({} if round_work is None else {"multiply_adds": round_work * k}),
            }
        )
    described_run = {
        "experiment": described,
        "exposure": exposure if talks else "none",
        "labels": labels.tolist() if kind == "accuracy" else None,
        "edges": [list(edge) for edge in graph.edges()] if graph is not None else None,
        "machine": {"processor": "x86_64", "cores": 2},
        "versions": {"fedtangent": "0.1.0", "torch": "2.15.0"},
        "threads": 1,
        **(manifest or {}),
    }
    path = parent / f"{method}-{len(list(parent.iterdir()))}"
    path.mkdir()
    (path / "manifest.json").write_text(json.dumps(described_run))
    (path / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
