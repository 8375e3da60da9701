"""The whole GPU record in at most eight minutes: speed and memory, checks, and what the methods reach.

    make bench-gpu DATA=DIR [RECORD=gpu.json]
    PYTHONPATH=src python benchmarks/gpu.py [--data-dir DIR] [--out gpu.json] [--minutes 8] [--only WORDS]
    PYTHONPATH=src python benchmarks/gpu.py --device cpu --miniature
    PYTHONPATH=src python benchmarks/gpu.py --table gpu.json

Runs from a checkout without installation and without the network, on Linux with Python 3.11 or newer. Beside PyTorch
2.11 or newer it imports numpy, scipy, networkx, optree, rich and safetensors; and torchvision for ResNet-8 and
ResNet-18, whose steps alone fail without it. Nothing else is needed, neither scikit-learn nor matplotlib.

The most important steps come first: the targets of speed in the papers' setting (300 nodes, 784-100-10), kernels, LeNet
and ResNet-8 with their memory, the check that rows depend on no other, then the frontier's main lines over three seeds,
CIFAR-10, and full and partial FedAvg at 40 clients for as many rounds as time is left. All run in one other process,
each for at most its own seconds. A step that fails is recorded with its sentence, and a step over its limit is stopped;
what it had found is kept, and the next one goes on. What comes after the minutes are over is recorded as left out.

`--data-dir` holds `FashionMNIST/raw` (torchvision's four idx files) and `cifar10.npz` (x_train, y_train, x_test,
y_test; 8-bit images, channels first) or `cifar-10-batches-py`; the first 15,000 and 4,000 images of CIFAR-10 are used.
Where either is absent its images are synthetic, of the same shapes, and the record says so.

The record is JSON, written anew with every result; at the end it is printed as the tables of docs/results/gpu.md.
"""

import argparse
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from within_limits import GRACE_S, Row, Step, Worker

NEEDED = ("torch", "numpy", "scipy", "networkx", "optree", "rich", "safetensors")
TOO_SHORT_S = 3.0  # a step is left out that would have less
PATIENCE = 4
SHOWN = (1, 2, 3, 4, 5, 8, 10, 15, 20, 25, 50, 75, 100, 125)  # rounds in the table of accuracies
Record = dict[str, Any]


def recorded(
    steps: Sequence[Step],
    settings: Any,
    path: Path,
    minutes: float,
    told: Callable[[str], None] = print,
    grace_s: float = GRACE_S,
) -> Record:
    """The record of all steps, which is in the file too, from the first step on.

    Args:
        steps: In order.
        settings: Given to every step; with the attributes `device` and `miniature`.
        path: Of the record.
        minutes: For all together.
        told: Called with a line when a step has ended.
        grace_s: The seconds after its limit that a step may take to stop by itself.
    """
    begin, worker = time.monotonic(), Worker(settings, grace_s)
    record = about(settings) | {"minutes": minutes, "seconds": 0.0, "steps": []}
    try:
        for step in steps:
            own: Row = {"step": step.name, "state": "running", "why": None, "rows": []}
            record["steps"].append(own)

            def keep(row: Row, own: Row = own) -> None:
                own["rows"].append(row)
                write(path, record)

            left, started = 60 * minutes - (time.monotonic() - begin), time.monotonic()
            if left < TOO_SHORT_S:
                own |= {"state": "left out", "why": f"The {minutes:g} minutes were over."}
            else:
                limit_s = round(min(step.limit_s, left), 1)
                state, why, peak_gib = worker.play(step, limit_s, keep)
                taken = round(time.monotonic() - started, 2)
                own |= {"state": state, "why": why, "limit_s": limit_s, "seconds": taken, "peak_gib": peak_gib}
            record["seconds"] = round(time.monotonic() - begin, 2)
            write(path, record)
            told(line(own, record["seconds"]))
    finally:
        worker.close()
    return record


def about(settings: Any) -> Record:
    """What is true of all steps."""
    import torch

    cuda = torch.device(settings.device).type == "cuda"
    return {
        "device": torch.cuda.get_device_name(settings.device) if cuda else f"{platform.machine()}, CPU",
        "memory_gib": torch.cuda.get_device_properties(settings.device).total_memory / 2**30 if cuda else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "python": platform.python_version(),
        "threads": os.cpu_count(),
        "tf32": {"products": torch.backends.cuda.matmul.allow_tf32, "convolutions": torch.backends.cudnn.allow_tf32},
        "miniature": settings.miniature,
    }


def write(path: Path, record: Record) -> None:
    """Writes the record in whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(record, indent=1) + "\n")
    part.replace(path)


def line(step: Row, seconds: float) -> str:
    """What is printed when a step has ended."""
    found = [
        f"{what} {told}" + ("" if target is None else f" (target {target:g} s)")
        for what, told, target, *_ in speeds(step["rows"])
    ]
    found += [f"{row['what']}: {'held' if row['held'] else 'NOT HELD'}" for row in step["rows"] if _is(row, "check")]
    ends = {(row["what"], row["seed"]): row for row in step["rows"] if _is(row, "accuracy")}
    found += [f"{what.split(': ')[-1]}, seed {seed}: {row['accuracy']:.4f} after round {row['round']}"
              for (what, seed), row in ends.items()]  # fmt: skip
    end = "; ".join([*found, step["state"] + (f": {step['why']}" if step["why"] else "")])
    return f"[{seconds:5.0f} s] {step['step']}: {end}"


def speeds(rows: Sequence[Row]) -> list[tuple[str, str, float | None, str, float]]:
    """What was timed: its name, the time in words, target, whether it is reached, and the memory in GiB.

    A round's time is the median of all rounds but the first, which warms up; of a single round it is that one's.
    """
    found = []
    for what in dict.fromkeys(row["what"] for row in rows if _is(row, "round")):
        its = [row for row in rows if _is(row, "round") and row["what"] == what]
        taken = median(row["seconds"] for row in (its[1:] or its))
        told = f"{taken:.3g} s a round" + ("" if its[1:] else " (the first)")
        found.append((what, told, its[0].get("target"), taken, max(row["peak_gib"] for row in its)))
    for row in rows:
        if _is(row, "time"):
            found.append((row["what"], f"{row['seconds']:.3g} s", row.get("target"), row["seconds"], row["peak_gib"]))
    return [
        (what, told, target, "" if target is None else "yes" if taken <= target else "no", peak)
        for what, told, target, taken, peak in found
    ]


def rendered(record: Record) -> str:
    """The record as Markdown: where it was made, speed and memory, checks, accuracies, and what failed."""
    rows = [row for step in record["steps"] for row in step["rows"]]
    facts = [f"{record['device']}, PyTorch {record['torch']}, Python {record['python']}; {record['seconds']:.0f} s."]
    facts += [f"{row['what']}: {row['source']}, {row['rows'][0]:,} and {row['rows'][1]:,} images."
              for row in rows if _is(row, "data")]  # fmt: skip
    facts += [f"{row['value']:.3g} {row['what']}." for row in rows if _is(row, "number")]
    if record["miniature"]:
        facts.append("In miniature: no number here says anything.")
    parts = [" ".join(facts)]
    timed = [[what, told, _target(target), met, f"{peak:.3g}"] for what, told, target, met, peak in speeds(rows)]
    if timed:
        parts.append(_table(["what", "measured", "target", "reached", "GiB"], timed))
    checks = [[row["what"], "yes" if row["held"] else "no", row.get("told") or ""] for row in rows if _is(row, "check")]
    if checks:
        parts.append(_table(["check", "held", "what was said"], checks))
    parts += _accuracies([row for row in rows if _is(row, "accuracy")])
    other = [[step["step"], step["state"], step["why"] or ""] for step in record["steps"] if step["state"] != "done"]
    if other:
        parts.append(_table(["step", "ended", "why"], other))
    return "\n\n".join(parts) + "\n"


def _accuracies(rows: Sequence[Row]) -> list[str]:
    """The table of accuracies: the mean over the seeds that have a round, and how many have the last one."""
    if not rows:
        return []
    reached = {row["round"] for row in rows}
    shown = [k for k in SHOWN if k in reached] or sorted(reached)[-1:]
    found = []
    for what in dict.fromkeys(row["what"] for row in rows):
        its = [row for row in rows if row["what"] == what]
        by = {k: [row["accuracy"] for row in its if row["round"] == k] for k in reached}
        last = max(row["round"] for row in its)
        means = [f"{sum(by[k]) / len(by[k]):.4f}" if by[k] else "" for k in shown]
        best = max(row["accuracy"] for row in its)
        found.append([what, len({row["seed"] for row in its}), *means, last, f"{best:.4f}"])
    return [_table(["accuracy after round", "seeds", *map(str, shown), "last round", "best"], found)]


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    text = [[str(cell).replace("|", "/") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *text])


def _target(target: float | None) -> str:
    return "" if target is None else f"{target:g} s"


def _is(row: Row, kind: str) -> bool:
    return bool(row["kind"] == kind)


def _missing() -> list[str]:
    """The packages that are needed and not there."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def main() -> None:
    """Makes the record and prints its tables; or prints those of a record that is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", metavar="DIR", help="FashionMNIST/raw and cifar10.npz; else synthetic images")
    parser.add_argument("--out", default="gpu.json", metavar="FILE", help="the record")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all steps together")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--miniature", action="store_true", help="tiny sizes, to try the benchmark itself")
    parser.add_argument("--only", metavar="WORDS", help="the steps whose names hold these words")
    parser.add_argument("--table", metavar="FILE", help="print the tables of this record and do nothing else")
    given = parser.parse_args()
    if given.table:
        print(rendered(json.loads(Path(given.table).read_text())), end="")
        return
    if missing := _missing():
        sys.exit(f"The packages {', '.join(NEEDED)} must be there; {', '.join(missing)} are missing. Install them.")
    import torch

    if torch.device(given.device).type == "cuda" and not torch.cuda.is_available():
        sys.exit("`--device` must be one that this machine has; got cuda without a GPU. Use --device cpu --miniature.")
    import gpu_steps
    from gpu_problems import Settings

    steps = [step for step in gpu_steps.steps() if given.only is None or given.only in step.name]
    if given.miniature:  # which a busy machine is to finish too
        steps = [step._replace(limit_s=PATIENCE * step.limit_s) for step in steps]
    if not steps:
        sys.exit(f"`--only` must be words in a step's name; got {given.only!r}. See gpu_steps.py.")
    settings = Settings(given.device, given.miniature, given.data_dir)
    record = recorded(steps, settings, Path(given.out), given.minutes, lambda text: print(text, flush=True))
    print(f"\n{rendered(record)}", end="")


if __name__ == "__main__":
    main()
