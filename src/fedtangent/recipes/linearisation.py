"""linearisation: how long a network follows its first-order model as both are trained, by width.

Lee, Xiao, Schoenholz, Bahri, Novak, Sohl-Dickstein, Pennington. Wide neural networks of any depth evolve as linear
models under gradient descent. NeurIPS 2019. arXiv 1902.06720.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product, takewhile
from typing import Any, Literal

import numpy as np
from matplotlib import rcParams
from matplotlib.figure import Figure
from torch import Tensor
from torch.func import functional_call, grad

from fedtangent import catalog, tangents, trees
from fedtangent.errors import SettingError
from fedtangent.recipes._ntk_mlp import NtkMlp
from fedtangent.shard import Dataset
from fedtangent.training import losses
from fedtangent.training.losses import Loss

WEIGHT_STD, BIAS_STD = math.sqrt(2), 0.1
CURVE = 25  # measurements after the first
FAITHFUL = 0.1  # a difference up to which the first-order model counts as followed

Weights = dict[str, Tensor]
Network = Callable[[Weights, Tensor], Tensor]


def linearisation(
    done: Sequence[dict[str, Any]] = (),
    *,
    dataset: str = "digits",
    data_dir: str | None = None,
    samples: int = 500,
    widths: tuple[int, ...] = (30, 100, 300, 1000),
    layers: int = 1,
    loss: Literal["cross_entropy", "squared"] = "cross_entropy",
    lr: float = 0.5,
    steps: int = 1000,
    inits: int = 3,
    probe: int = 50,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """The wider the network, the longer its first-order model, trained by the same steps, tells what it does.

    Dense networks of ReLU in the NTK parameterisation, and the first-order model of each at its random start, under the
    same full-batch gradient descent. The difference of the two is |f - f_lin| / |f - f_0| over the test samples, where
    f_0 are the outputs at the start. The gap is the same with the first-order model at the network's own weights. The
    drift is the relative change of the full tangent kernel in the Frobenius norm.

    A network counts as followed up to the last measured step before the difference first exceeds 0.1.

    Args:
        done: Rows that are there already.
        dataset: A data set, or a file that defines one.
        data_dir: Where it is, for a data set that is not built in.
        samples: To train on, the first ones.
        widths: Numbers of units of the hidden layers.
        layers: How many hidden layers.
        loss: cross_entropy, for classes; or squared.
        lr: Step size of the optimizer.
        steps: How many gradient steps.
        inits: Random initialisations of each width.
        probe: Training samples whose kernel is measured, the first ones.
        seed: That the networks are drawn from.
    """
    if not widths or min(widths) < 1 or min(samples, layers, steps, inits, probe) < 1:
        raise SettingError(
            f"`widths`, `samples`, `layers`, `steps`, `inits` and `probe` must be positive; got {widths}, {samples}, "
            f"{layers}, {steps}, {inits} and {probe}. Give such whole numbers."
        )
    if not 0 < lr < math.inf:
        raise SettingError(f"`lr` must be positive and finite; got {lr}. Choose a step size.")
    data = catalog.load("datasets", dataset)(data_dir=data_dir)
    if loss == "cross_entropy" and not data.classes:
        raise SettingError(f"`loss` must be squared for {data.name}, which has no classes; got {loss}. Choose that.")
    data = data._replace(x_train=data.x_train[:samples], y_train=data.y_train[:samples])
    for width, init in product(widths, range(inits)):
        sizes = (data.x_train[0].numel(), *[width] * layers, data.classes or data.y_train.shape[1])
        model = NtkMlp(sizes, np.random.default_rng([seed, width, init]), WEIGHT_STD, BIAS_STD)
        there = {row["step"] for row in done if (row["width"], row["init"]) == (width, init)}
        if steps not in there:
            rows = trained(model, data, losses.NAMES[loss], lr, steps, data.x_train[:probe])
            yield from ({"width": width, "init": init, **row} for row in rows if row["step"] not in there)


def trained(model: NtkMlp, data: Dataset, loss: Loss, lr: float, steps: int, probe: Tensor) -> Iterator[dict[str, Any]]:
    """The rows of one network and its first-order model; the last is at the last step."""
    _check_stable(model, data, loss, lr)
    f_lin = tangents.linearize(model)
    w = w_lin = f_lin.w_0
    kernel = tangents.kernel(model, probe)

    def f(w: Weights, x: Tensor) -> Tensor:
        return functional_call(model, w, (x,))  # type: ignore[no-any-return]

    f_0 = f(w, data.x_test)
    measured = np.unique(np.geomspace(1, steps, CURVE).round().astype(int)).tolist()
    for before, step in pairwise((0, 0, *measured)):
        w = descended(f, w, data, loss, lr, step - before)
        w_lin = descended(f_lin, w_lin, data, loss, lr, step - before)
        f_w = f(w, data.x_test)
        apart, come = (float((f_w - other).norm()) for other in (f_lin(w_lin, data.x_test), f_0))
        yield {
            "step": step,
            **scores("", f, w, data, loss),
            **scores("linear_", f_lin, w_lin, data, loss),
            "difference": apart / come if step else 0.0,
            "gap": f_lin.gap(w, data.x_test).relative,
            "kernel_drift": tangents.drift(tangents.kernel(model, probe, w=w), kernel),
        }


def descended(f: Network, w: Weights, data: Dataset, loss: Loss, lr: float, steps: int) -> Weights:
    """The weights after that many steps of gradient descent on the mean training loss."""
    slope = grad(lambda w: losses.mean(loss, f(w, data.x_train), data.y_train))
    for _ in range(steps):
        w = trees.add_scaled(w, slope(w), -lr)
    return w


def scores(prefix: str, f: Network, w: Weights, data: Dataset, loss: Loss) -> dict[str, float]:
    """Loss and accuracy, NaN without classes, on the training and the test samples."""
    measures = {}
    for part, x, y in (("train", data.x_train, data.y_train), ("test", data.x_test, data.y_test)):
        outputs = f(w, x)
        measures[f"{prefix}{part}_loss"] = float(losses.mean(loss, outputs, y))
        right = (outputs.argmax(1) == y).double().mean().item() if data.classes else math.nan
        measures[f"{prefix}{part}_accuracy"] = right
    return measures


def _check_stable(model: NtkMlp, data: Dataset, loss: Loss, lr: float) -> None:
    """A step above this bound may throw the first-order model apart."""
    assert loss.curvature is not None
    spectrum = tangents.spectrum(tangents.jacobian(model, data.x_train), 1)
    outputs = spectrum.size // len(data.x_train)
    stable = spectrum.stable_step / (outputs * loss.curvature(outputs))
    if lr >= stable:
        raise SettingError(
            f"`lr` must be below the largest stable step, {stable:.2g} at width {model.weights[0].shape[0]}; got {lr}. "
            "Choose a smaller one."
        )


def table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A width a row: both models at the last step, means over the initialisations, and how many steps were followed."""
    summary_rows = []
    for width, own in _by_width(rows).items():
        last = max(row["step"] for row in own)
        ends = [row for row in own if row["step"] == last]
        means = {key: float(np.mean([row[key] for row in ends])) for key in ends[0] if key not in ("width", "init")}
        runs = [[row for row in own if row["init"] == end["init"]] for end in ends]
        summary_rows.append(
            {
                "width": width,
                "accuracy": means["test_accuracy"],
                "linear_accuracy": means["linear_test_accuracy"],
                "difference": means["difference"],
                "gap": means["gap"],
                "kernel_drift": means["kernel_drift"],
                "steps_followed": round(float(np.median([followed(run) for run in runs]))),
            }
        )
    return summary_rows


def followed(rows: Sequence[dict[str, Any]]) -> int:
    """The last measured step of one network before the first whose difference is above FAITHFUL."""
    by_step = sorted(rows, key=lambda row: row["step"])
    return max((row["step"] for row in takewhile(lambda row: row["difference"] <= FAITHFUL, by_step)), default=0)


def figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """The test loss of both, how far their outputs are apart, and the drift of the kernel, as training goes on."""
    drawn = Figure(figsize=(12.8, 4.6), layout="constrained")
    loss, difference, drift = drawn.subplots(1, 3)
    drift.sharey(difference)
    for colour, (width, own) in enumerate(_by_width(rows).items()):
        label = f"width {width}"
        loss.plot(*_mean(own, "test_loss"), color=f"C{colour}", label=label)
        loss.plot(*_mean(own, "linear_test_loss"), color=f"C{colour}", linestyle="--", linewidth=1.4)
        difference.plot(*_mean(own, "difference"), color=f"C{colour}", label=label)
        drift.plot(*_mean(own, "kernel_drift"), color=f"C{colour}")
    loss.plot([], [], color=rcParams["text.color"], linestyle="--", linewidth=1.4, label="first-order model")
    loss.set(title="Test loss", xscale="log", yscale="log", xlabel="gradient steps")
    loss.legend(loc="lower left")
    for axes, title in ((difference, "Difference of the outputs"), (drift, "Drift of the kernel")):
        axes.set(title=title, xscale="log", yscale="log", xlabel="gradient steps")
    return drawn


def _mean(rows: Sequence[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """Steps after the start, and the mean over the initialisations at each."""
    steps = sorted({row["step"] for row in rows if row["step"]})
    return steps, [float(np.mean([row[key] for row in rows if row["step"] == step])) for step in steps]


def _by_width(rows: Sequence[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    return {width: [row for row in rows if row["width"] == width] for width in sorted({row["width"] for row in rows})}
