"""The tangent kernel of some hundred models of other people: is it right, how long does it take, what falls back.

    python3 -m venv ENV && ENV/bin/pip install --editable . timm transformers
    ENV/bin/python benchmarks/zoo.py [--families torchvision,timm,...] [--only NAME,...] [--limit S]
        [--record FILE.jsonl] [--out FILE.md]

Every model runs in a process of its own on two samples, in float64, or in float32 where it computes in nothing else:
the full kernel, held against row-by-row autograd, and by hand the very same by autograd alone. In the table are the
error relative to the largest entry, both times, and the shares of the parameters that are not contracted by layer
factors, but by explicit gradients of single uses or through autograd of the whole model, or are unused. What is found
of each model is added to the record, and not measured again once it is there: a run may be stopped and taken up.
"""

import argparse
import copy
import importlib
import json
import multiprocessing
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from zoo_models import SINGLE, zoo

ROWS, EXACT, EXACT_SINGLE = 2, 1e-10, 1e-5
MEMORY = 4 * 2**30  # for models that do not fit into the default
PACKAGES = {"torchvision": "torchvision", "timm": "timm", "transformers": "transformers.models.bert.modeling_bert"}
COLUMNS = ["parameters", "error", "seconds", "by autograd, s", "not by layer factors"]
FORMS = {"error": ".0e", "seconds": ".2f", "by_hand": ".2f"}
WAYS = ["gradients", "whole", "unused"]
KINDS = {"refused": "refused", "over": "over the time", "torch": "torch itself fails"}


def measured(family: str, name: str) -> Iterator[dict[str, Any]]:
    """What is found of a model, more with every step; `refused` where it has no kernel."""
    from fedtangent import tangents

    torch.manual_seed(0)
    model, x, outputs = zoo()[family][name](ROWS)
    if any(isinstance(p, torch.nn.UninitializedParameter) for p in model.parameters()):
        model(x)
    precision = torch.float32 if name in SINGLE else torch.float64
    model = model.to(precision).eval()
    x = {key: _to(part, precision) for key, part in x.items()} if isinstance(x, dict) else _to(x, precision)
    found: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters())}
    yield found
    begin = time.perf_counter()
    try:
        expected = _by_hand(model, x, outputs)
    except Exception as error:
        yield found | {"torch": f"{type(error).__name__}: {_first(error)}"}
        return
    found |= {"by_hand": time.perf_counter() - begin}
    yield found
    more: dict[str, Any] = {} if outputs is None else {"outputs": outputs}
    begin = time.perf_counter()
    try:
        k = tangents.kernel(model, x, **more)
    except (ValueError, TypeError) as error:
        yield found | {"refused": str(error)}
        if not str(error).startswith("`memory_bytes`"):
            return
        begin, found["beyond"], more["memory_bytes"] = time.perf_counter(), str(error), MEMORY
        k = tangents.kernel(model, x, **more)
    found |= {"seconds": time.perf_counter() - begin}
    found |= {"error": float((k - expected).abs().max() / expected.abs().max())}
    yield found
    yield found | _shares(tangents.plan(model, x, **more), found["parameters"])


def _shares(plan: Any, size: int) -> dict[str, int]:
    """The parameters by the way they are contracted."""
    share = {"factors": 0, "gradients": 0, "whole": 0}
    for line in plan.lines:
        by_factors = line.part.uses[0].way != "torch.func"
        way = "whole" if line.what.startswith("the whole") else "factors" if by_factors else "gradients"
        share[way] += line.part.size
    return share | {"unused": size - sum(share.values())}


def _to(x: Tensor, precision: torch.dtype) -> Tensor:
    return x.to(precision) if x.is_floating_point() else x


def _first(error: Exception) -> str:
    return str(error).splitlines()[0][:160] if str(error) else ""


def _by_hand(model: torch.nn.Module, x: Any, outputs: str | None) -> Tensor:
    """By automatic differentiation of all samples together: PyTorch reads one sample's batch norm alone wrongly."""
    rows = []
    model = copy.deepcopy(model)  # which may keep what it makes of its parameters
    f = model(**x) if isinstance(x, dict) else model(x)
    for own in f if outputs is None else getattr(f, outputs):
        for one in own:
            g = torch.autograd.grad(
                one, list(model.parameters()), retain_graph=True, materialize_grads=True, allow_unused=True
            )
            rows.append([part.flatten() for part in g])
    k = [sum(a @ b for a, b in zip(one, other, strict=True)) for one in rows for other in rows]
    return torch.tensor(k, dtype=torch.float64).view(ROWS, -1, ROWS, len(rows) // ROWS).movedim(2, 1)


def _child(family: str, name: str, pipe: Any) -> None:
    warnings.simplefilter("ignore")
    found: dict[str, Any] = {}
    try:
        for found in measured(family, name):
            pipe.send(found)
        pipe.send(found | {"done": True})
    except Exception as error:
        pipe.send(found | {"failed": f"{type(error).__name__}: {_first(error)}", "done": True})


def alone(family: str, name: str, limit_s: float) -> dict[str, Any]:
    """`measured`, in a process of its own that is ended after `limit_s` seconds."""
    own, its = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(family, name, its))
    process.start()
    its.close()
    end = time.monotonic() + limit_s
    found: dict[str, Any] = {}
    try:
        while not found.pop("done", False):
            if not own.poll(max(end - time.monotonic(), 0)):
                found["over"] = limit_s
                break
            found = own.recv()
    except EOFError:
        found["failed"] = "the process ended"
    process.kill()
    process.join()
    return found


def main() -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", default="torchvision,timm,transformers,own")
    parser.add_argument("--only", default="")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds that a model may take")
    parser.add_argument("--record", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    families = given.families.split(",")
    _import(families)
    only = [name for name in given.only.split(",") if name]
    record = given.record.read_text().splitlines() if given.record and given.record.exists() else []
    known = {(line["family"], line["model"]): line for line in map(json.loads, record)}
    table: dict[str, list[dict[str, Any]]] = {family: [] for family in families}
    for family in families:
        for name in [name for name in only if name in zoo()[family]] if only else zoo()[family]:
            found = known.get((family, name))
            if found is None:
                found = {"family": family, "model": name, **alone(family, name, given.limit)}
                print(json.dumps(found), file=sys.stderr, flush=True)
                if given.record:
                    with given.record.open("a") as lines:
                        lines.write(json.dumps(found) + "\n")
            table[family].append(found)
    text = _page(table)
    print(text)
    if given.out:
        given.out.write_text(text)


def _import(families: list[str]) -> None:
    """Before the processes part, so that imports, and what torch imports at its first vjp, belong to no model."""
    torch.set_num_threads(1)
    importlib.import_module("fedtangent.tangents")
    torch.func.vjp(torch.sin, torch.ones(1))
    for family in families:
        if family in PACKAGES:
            importlib.import_module(PACKAGES[family])


def _page(table: dict[str, list[dict[str, Any]]]) -> str:
    """Counts, and a table for every family."""
    kinds = {family: Counter(_kind(found) for found in entries) for family, entries in table.items()}
    columns = list(dict.fromkeys(kind for counts in kinds.values() for kind in counts))
    text = ["| family | models | " + " | ".join(columns) + " |", "|" + "---|" * (len(columns) + 2)]
    for family, counts in kinds.items():
        text.append(f"| {family} | {counts.total()} | " + " | ".join(str(counts[kind]) for kind in columns) + " |")
    for family, entries in table.items():
        text += ["", f"| {family} | " + " | ".join(COLUMNS) + " |", "|" + "---|" * (len(COLUMNS) + 1)]
        text += [_line(found) for found in entries]
    return "\n".join(text) + "\n"


def _kind(found: dict[str, Any]) -> str:
    if "error" in found:
        if found["error"] > (EXACT_SINGLE if found["model"] in SINGLE else EXACT):
            return "inexact"
        return "exact, with a part through the whole model" if found.get("whole") else "exact"
    return next((kind for key, kind in KINDS.items() if key in found), "failed")


def _line(found: dict[str, Any]) -> str:
    said = [f"{_percent(found[way] / found['parameters'])} {way}" for way in WAYS if found.get(way)]
    said += ["within 4 GiB only"] if "beyond" in found else []
    said += [f"over {found['over']:g} s"] if "over" in found else []
    said += [f"{KINDS[key]}: {found[key]}" for key in ("torch", "refused") if key in found]
    said += [f"FAILED: {found['failed']}"] if "failed" in found else []
    cells = [found["model"], f"{found.get('parameters', 0):,}"]
    cells += [f"{found[key]:{form}}" if key in found else "" for key, form in FORMS.items()]
    return f"| {' | '.join([*cells, ', '.join(said)])} |"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share > 0.005 else f"{share:.1g}"


if __name__ == "__main__":
    main()
