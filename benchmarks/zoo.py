"""The tangent kernel of some hundred models of other people: is it right, how long does it take, what falls back.

    python3 -m venv ENV && ENV/bin/pip install --editable . timm transformers
    ENV/bin/python benchmarks/zoo.py [--families torchvision,timm,...] [--only NAME,...] [--out FILE.md]

Every model runs in a process of its own on two samples, in float64: the full kernel, held against row-by-row autograd,
and by hand the very same by autograd alone. In the table are the error relative to the largest entry, both times, and
the share of the parameters that are contracted by layer factors, by explicit gradients of single uses, and through
autograd of the whole model.
"""

import argparse
import json
import multiprocessing
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from zoo_models import zoo

ROWS, LIMIT_S = 2, 300
COLUMNS = ["error", "seconds", "by_hand", "factors", "gradients", "whole", "unused"]


def measured(family: str, name: str) -> dict[str, Any]:
    """What is found of a model; `refused` where it has no kernel."""
    from fedtangent import tangents
    from fedtangent.tangents import plan

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, x, outputs = zoo()[family][name](ROWS)
    if any(isinstance(p, torch.nn.UninitializedParameter) for p in model.parameters()):
        model(x)
    model = model.double().eval()
    x = {key: _double(part) for key, part in x.items()} if isinstance(x, dict) else _double(x)
    size = sum(p.numel() for p in model.parameters())
    begin = time.perf_counter()
    try:
        k = tangents.kernel(model, x, **({} if outputs is None else {"outputs": outputs}))
    except (ValueError, TypeError) as error:
        return {"refused": str(error), "parameters": size}
    seconds = time.perf_counter() - begin
    begin = time.perf_counter()
    expected = _by_hand(model, x, outputs)
    by_hand = time.perf_counter() - begin
    its = plan(model, x, **({} if outputs is None else {"outputs": outputs}))
    share = {"factors": 0, "gradients": 0, "whole": 0}
    for line in its.lines:
        share[
            "whole"
            if line.what.startswith("the whole")
            else "factors"
            if line.part.uses[0].way != "torch.func"
            else "gradients"
        ] += line.part.size
    error = float((k - expected).abs().max() / expected.abs().max())
    unused = size - sum(share.values())
    return {"parameters": size, "error": error, "seconds": seconds, "by_hand": by_hand, **share, "unused": unused}


def _double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def _by_hand(model: torch.nn.Module, x: Any, outputs: str | None) -> Tensor:
    rows = []
    for n in range(ROWS):
        f = model(**{key: part[n : n + 1] for key, part in x.items()}) if isinstance(x, dict) else model(x[n : n + 1])
        f = (f if outputs is None else getattr(f, outputs))[0]
        for one in f:
            g = torch.autograd.grad(
                one, list(model.parameters()), retain_graph=True, materialize_grads=True, allow_unused=True
            )
            rows.append(torch.cat([part.flatten() for part in g]))
    j = torch.stack(rows)
    return (j @ j.T).view(ROWS, -1, ROWS, len(rows) // ROWS).movedim(2, 1)


def _child(family: str, name: str, pipe: Any) -> None:
    warnings.simplefilter("ignore")
    try:
        pipe.send(measured(family, name))
    except Exception as error:
        pipe.send({"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"})


def alone(family: str, name: str) -> dict[str, Any]:
    """`measured`, in a process of its own."""
    own, its = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(family, name, its))
    process.start()
    its.close()
    try:
        found = own.recv() if own.poll(LIMIT_S) else {"failed": f"more than {LIMIT_S} s"}
    except EOFError:
        found = {"failed": "the process ended"}
    process.kill()
    process.join()
    return found


def main() -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", default="torchvision,timm,transformers,own")
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.func.vjp(torch.sin, torch.ones(1))  # what torch imports at the first of these belongs to no model
    only = {name for name in given.only.split(",") if name}
    lines = ["| model | parameters | " + " | ".join(COLUMNS) + " |", "|" + "---|" * (len(COLUMNS) + 2)]
    for family in given.families.split(","):
        for name in zoo()[family]:
            if only and name not in only:
                continue
            found = alone(family, name)
            print(json.dumps({"family": family, "model": name, **found}), file=sys.stderr, flush=True)
            lines.append(_line(f"{family}: {name}", found))
    text = "\n".join(lines) + "\n"
    print(text)
    if given.out:
        given.out.write_text(text)


def _line(name: str, found: dict[str, Any]) -> str:
    if "error" not in found:
        said = f"refused: {found['refused']}" if "refused" in found else f"FAILED: {found['failed']}"
        return f"| {name} | {found.get('parameters', 0):,} | {said} |" + " |" * (len(COLUMNS) - 1)
    cells = [f"{found['error']:.0e}", f"{found['seconds']:.2f}", f"{found['by_hand']:.2f}"]
    cells += [f"{found[key] / found['parameters']:.0%}" for key in COLUMNS[3:]]
    return f"| {name} | {found['parameters']:,} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
