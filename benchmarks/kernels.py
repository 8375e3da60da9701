"""The full tangent kernel, side by side: ours, PyTorch's tutorial, torchjd, nngeometry and curvlinops.

    uv run --isolated --no-project --with-editable . --with torchjd --with nngeometry --with curvlinops-for-pytorch \
        python benchmarks/kernels.py [--threads 1,2] [--cases mlp-200,...] [--ways fedtangent,...]

Every way runs alone in a process: the least time of several that a kernel takes, and by how much it raises the memory,
without the result. All must agree with ours; where one cannot do a network, is not installed, asks for more than 60% of
the memory or takes more than five minutes, the table says so.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import measure
import torch
from networks import NETWORKS, OUTPUTS
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

SHARE, LIMIT_S = 0.6, 300
CASES = ["mlp-200", "mlp-1200", "lenet-200", "resnet8-32", "transformer-64"]


def fedtangent(model: nn.Module, x: Tensor) -> Tensor:
    """Ours."""
    from fedtangent.tangents import kernel

    return kernel(model, x)


def tutorial(model: nn.Module, x: Tensor) -> Tensor:
    """The way of PyTorch's tutorial: per-sample Jacobians by vmap(jacrev), contracted parameter by parameter."""
    w = {name: part.detach() for name, part in model.named_parameters()}
    one = torch.func.jacrev(lambda w, row: torch.func.functional_call(model, w, (row[None],))[0])
    j = torch.func.vmap(one, (None, 0))(w, x)
    return sum(torch.einsum("naf,mbf->nmab", part.flatten(2), part.flatten(2)) for part in j.values())


def torchjd(model: nn.Module, x: Tensor) -> Tensor:
    """The Gramian of torchjd's autogram, module by module."""
    from torchjd.autogram import Engine

    engine = Engine(model, batch_dim=0)
    gramian: Tensor = engine.compute_gramian(model(x))
    return gramian.view(len(x), OUTPUTS, len(x), OUTPUTS).permute(0, 2, 1, 3)


def nngeometry(model: nn.Module, x: Tensor) -> Tensor:
    """The Gram matrix of nngeometry, from hooks, in batches of 100."""
    from nngeometry import GramMatrix
    from torch.utils.data import DataLoader, TensorDataset

    data = TensorDataset(x, torch.zeros(len(x)))
    return GramMatrix(model, DataLoader(data, 100), function=lambda *d: model(d[0])).data.permute(1, 3, 0, 2)


def curvlinops(model: nn.Module, x: Tensor) -> Tensor:
    """curvlinops' Jacobian operators, J (J^T E), a hundred columns of the unit matrix E at a time."""
    from curvlinops import JacobianLinearOperator, TransposedJacobianLinearOperator

    data, w, rows = [(x, torch.zeros(len(x)))], list(model.parameters()), len(x) * OUTPUTS
    j = JacobianLinearOperator(model, w, data, check_deterministic=False)
    jt = TransposedJacobianLinearOperator(model, w, data, check_deterministic=False)
    columns = [j @ (jt @ torch.eye(rows)[:, start : start + 100]) for start in range(0, rows, 100)]
    return torch.cat(columns, 1).view(len(x), OUTPUTS, len(x), OUTPUTS).permute(0, 2, 1, 3)


WAYS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "fedtangent": fedtangent,
    "tutorial": tutorial,
    "torchjd": torchjd,
    "nngeometry": nngeometry,
    "curvlinops": curvlinops,
}


def problem(case: str) -> tuple[nn.Module, Tensor]:
    """The network and its samples."""
    name, samples = case.split("-")
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    return make().eval(), torch.randn(int(samples), *shape)


def alone(case: str, way: str) -> dict[str, float]:
    """Time, memory and a fingerprint of the kernel."""
    measure.within(SHARE)
    model, x = problem(case)
    torch.backends.mha.set_fastpath_enabled(False)  # not all ways can differentiate fused attention
    with sdpa_kernel(SDPBackend.MATH):
        return measured(model, x, WAYS[way])


def measured(model: nn.Module, x: Tensor, way: Callable[[nn.Module, Tensor], Tensor]) -> dict[str, float]:
    """Time, memory and a fingerprint of a way."""
    found: list[Tensor] = []
    way(model, x[:2])  # imports and first calls are no part of the peak
    begin = time.perf_counter()
    peak = measure.peak(lambda: found.append(way(model, x)))
    once = time.perf_counter() - begin
    k = found.pop().detach()
    mark = torch.randn(k.shape[0], k.shape[2], generator=torch.Generator().manual_seed(1))
    against = float(torch.einsum("nc,nmcd,md->", mark, k, mark))
    result = k.numel() * k.element_size() / 2**30
    del k
    seconds = once if once > 20 else measure.seconds(lambda: way(model, x), 3 if once > 2 else 9, min)
    return {"s": seconds, "GiB": max(peak - result, 0.0), "mark": against}


def _reason(error: subprocess.CalledProcessError | subprocess.TimeoutExpired) -> str:
    """Why a way has no figures."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"not within {LIMIT_S} s"
    if "not enough memory" in error.stderr or "MemoryError" in error.stderr:
        return f"needs more than {SHARE:.0%} of the memory"
    return error.stderr.strip().splitlines()[-1][:90] if error.stderr else f"killed ({error.returncode})"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--only", nargs=2, metavar=("CASE", "WAY"), help="measure this alone, and print JSON")
    given = parser.parse_args()
    if given.only:
        print(json.dumps(alone(*given.only)))
        return
    rows: list[list[Any]] = []
    for threads in map(int, given.threads.split(",")):
        for case in given.cases.split(","):
            ours = None
            for way in given.ways.split(","):
                try:
                    its = measure.alone(__file__, "--only", case, way, threads=threads, limit_s=LIMIT_S)
                except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                    rows.append([case, way, threads, _reason(error), "-", "-", "-"])
                else:
                    ours = ours or its
                    if abs(its["mark"] - ours["mark"]) > 1e-3 * abs(ours["mark"]):
                        raise SystemExit(f"{way} disagrees on {case}: {its['mark']} against {ours['mark']}")
                    ratios = [its["s"] / ours["s"], its["GiB"] / max(ours["GiB"], 1e-3)]
                    rows.append([case, way, threads, its["s"], its["GiB"], *ratios])
                print(*rows[-1], file=sys.stderr, flush=True)
    print(measure.table(rows, ["case", "way", "threads", "s", "GiB beside the result", "times ours", "memory / ours"]))


if __name__ == "__main__":
    main()
