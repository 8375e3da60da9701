"""The steps of the GPU record, most important first; gpu.py runs them."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from gpu_problems import CLASSES, BatchMean, Settings, Vision, cifar, fashion, network, normalised, sizes
from torch import Tensor, nn
from within_limits import Row, Step, Tell, peak, reset_peak, sentence

from fedtangent.experiments.deterministic import deterministic
from fedtangent.experiments.evaluate import evaluate
from fedtangent.experiments.experiment import experiment
from fedtangent.experiments.run import step as one_round
from fedtangent.experiments.setup import setup
from fedtangent.experiments.warm_up import warm_up
from fedtangent.models.resnet8 import resnet8
from fedtangent.models.resnet18 import resnet18
from fedtangent.tangents import kernel
from fedtangent.timing import seconds

LONG_TIMES = (200, 400, 600, 800, 1200, 1600, 2400, 3200)  # for the full kernel
LOCAL = {"epochs": 20, "batch": 25, "lr": 0.1}  # FedAvg's, tuned on validation rows (docs/results/frontier.md)
NTKDFL = {"method": "ntkdfl", "exchange": "factors"}
# The frontier's main lines: rounds, and what to run.
LINES: dict[str, tuple[int, dict[str, Any]]] = {
    "FedKFAC": (20, {"method": "fedkfac"}),
    "DFedKFAC": (10, {"method": "dfedkfac"}),
    "FedKFAC, 7% of the clients a round": (20, {"method": "fedkfac", "participation": 0.07}),
    "NTK-DFL, momentum 0.8": (10, {**NTKDFL, "momentum": 0.8}),
    "FedAvg, 20 epochs": (10, {"method": "fedavg", **LOCAL}),
    "NTK-DFL": (20, NTKDFL),
    "DFedAvg": (20, {"method": "dfedavg"}),
}
# Of LeNet on CIFAR-10; the rates of averaging and of central training are trials, not tuned.
CIFAR_LINES: dict[str, tuple[int, dict[str, Any]]] = {
    "FedKFAC": (10, {"method": "fedkfac"}),
    "FedAvg, 5 epochs, rate 0.02": (10, {"method": "fedavg", "epochs": 5, "batch": 25, "lr": 0.02}),
    "FedAvg, 5 epochs, rate 0.05": (10, {"method": "fedavg", "epochs": 5, "batch": 25, "lr": 0.05}),
    "central SGD, an epoch a round": (10, {"method": "central", "batch": 50, "lr": 0.02, "momentum": 0.9}),
    "DFedKFAC": (15, {"method": "dfedkfac"}),
}
NEIGHBOURS = ("ntkdfl", "dfedkfac", "dfedavg")
PARTIAL = {"epochs": 2, "batch": 32, "lr": 0.001, "optimizer": "adam"}


def steps() -> list[Step]:
    """All steps, in order."""
    own = [
        Step("the machine", machine, 60),
        Step("ntkdfl", partial(papers, name="ntkdfl", target_s=0.4, method="ntkdfl"), 30),
        Step("dfedkfac", partial(papers, name="dfedkfac", target_s=0.4, method="dfedkfac"), 30),
        Step("fedkfac", partial(papers, name="fedkfac", target_s=0.12, method="fedkfac"), 20),
        Step("evaluation of the nodes", evaluation, 30),
        Step("kernels of 784-100-10", dense_kernels, 20),
        Step("kernel of a small vision transformer", vision_kernel, 30),
        Step("kernel of ResNet-18", residual_kernel, 30),
        Step(
            "ntkdfl, full kernel",
            partial(papers, name="ntkdfl, full kernel", target_s=1.5, method="ntkdfl", kernel="full", times=LONG_TIMES),
            30,
        ),
        Step("fedavg", partial(papers, name="fedavg", target_s=None, method="fedavg", epochs=5, batch=25), 20),
    ]
    own += [
        Step(f"{method} on {model}", partial(convolutional, method=method, model=model), 20)
        for model in ("lenet", "resnet8")
        for method in ("fedkfac", "dfedkfac", "ntkdfl")
    ]
    own += [
        Step("rows that depend on no other", independence, 20),
        Step("the same bits twice", repeated, 30),
    ]
    own += [Step(f"frontier: {name}", partial(frontier, name=name), 35) for name in LINES]
    own += [
        Step("CIFAR-10, LeNet", cifar_lines, 45),
        Step("one exchange of five clients", one_exchange, 25),
        Step("CIFAR-10, ResNet-8", cifar_residual, 30),
        Step("FedPart's first table", fedpart, 300),
    ]
    return own


def machine(settings: Settings, tell: Tell) -> None:
    """Loads the data, and measures the matrix product that all else is bounded by."""
    for name, load in (("fashion_mnist", fashion), ("cifar10", cifar)):
        data, source = load(settings)
        tell({"kind": "data", "what": name, "source": source, "rows": [len(data.y_train), len(data.y_test)]})
    warm_up(settings.device)
    side = 64 if settings.miniature else 8192
    a = torch.randn(side, side, device=settings.device)
    taken = seconds(lambda: synchronised(settings, a @ a))
    told = "TFLOP/s of a float32 product" + (" with TF32" if torch.backends.cuda.matmul.allow_tf32 else "")
    tell({"kind": "number", "what": told, "value": 2 * side**3 / taken / 1e12})


def papers(settings: Settings, tell: Tell, *, name: str, target_s: float | None, method: str, **options: Any) -> None:
    """Rounds of a method in the papers' setting: 784-100-10, 200 images a node, alpha 0.1."""
    wanted = _papers(settings, method, **options, rounds=sizes(settings).rounds)
    target = {} if target_s is None or settings.miniature else {"target": target_s}
    for entry in rounds(settings, **wanted):
        tell({"kind": "round", "what": f"{name}, {sizes(settings).nodes} nodes", **entry, **target})


def evaluation(settings: Settings, tell: Tell) -> None:
    """Test accuracy of every node's own model, after a round that made them different."""
    built = setup(experiment(device=settings.device, **_papers(settings, "dfedavg", rounds=1)))
    wire = built.wire()
    start = built.fleet(0, wire)
    data_k = start.each(list(built.data))
    fleet = built.fleet(1, wire)
    state, _, weights, _ = one_round(built, fleet, built.method.init(start, data_k), data_k, 1)
    reset_peak(settings.device)
    taken = seconds(lambda: synchronised(settings, evaluate(built, fleet, state, weights, nodes=True)), repeats=2)
    _tell_time(settings, tell, f"evaluation of {len(built.data)} nodes' own models", taken, 0.2)


def dense_kernels(settings: Settings, tell: Tell) -> None:
    """Kernels of the papers' network."""
    few, many = sizes(settings).samples
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, CLASSES)).to(settings.device)
    for count, kind, target in (
        (few, "full", 0.003),
        (few, "trace", None),
        (many, "full", None),
        (many, "trace", None),
    ):
        x = torch.randn(count, 1, 28, 28, device=settings.device)
        _kernel(settings, tell, f"784-100-10, {count} samples", model, x, kind, target)


def vision_kernel(settings: Settings, tell: Tell) -> None:
    """The kernel of a small vision transformer."""
    layers, width, count = sizes(settings).vision
    torch.manual_seed(0)
    model = Vision(layers, width).to(settings.device)
    x = torch.randn(count, 3, 32, 32, device=settings.device)
    _kernel(settings, tell, f"vision transformer, {layers} layers of {width}, {count} samples", model, x, "full", 0.3)


def residual_kernel(settings: Settings, tell: Tell) -> None:
    """The kernel of ResNet-18 with GroupNorm; in miniature of ResNet-8."""
    count = sizes(settings).residual
    build, name = (resnet8, "ResNet-8") if settings.miniature else (resnet18, "ResNet-18")
    model = build((3, 32, 32), CLASSES, np.random.default_rng(0), norm="group").to(settings.device)
    x = torch.randn(count, 3, 32, 32, device=settings.device)
    _kernel(settings, tell, f"{name} with GroupNorm, {count} samples", model, x, "full", None)


def convolutional(settings: Settings, tell: Tell, *, method: str, model: str) -> None:
    """Rounds, and memory, of 20 nodes of 750 images."""
    wanted = _cifar(settings, method, model, partition="iid", rounds=sizes(settings).rounds)
    for entry in rounds(settings, **wanted):
        tell({"kind": "round", "what": f"{method}, {model}, {sizes(settings).clients} nodes of CIFAR images", **entry})


def independence(settings: Settings, tell: Tell) -> None:
    """Models whose rows depend on each other are refused and others are not, with TF32 and without."""
    depends: dict[str, tuple[nn.Module, bool]] = {
        "group norm": (normalised(nn.GroupNorm(4, 8)), False),
        "batch norm": (normalised(nn.BatchNorm2d(8)), True),
        "a tenth of the batch's mean": (normalised(BatchMean(0.1)), True),
    }
    if not settings.miniature:
        deep = resnet18((3, 32, 32), CLASSES, np.random.default_rng(0), norm="group")
        depends["ResNet-18 with GroupNorm"] = deep, False
    x = torch.randn(16, 3, 32, 32, device=settings.device)
    kept = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        for tf32 in (False, True):
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
            for name, (model, others) in depends.items():
                refused = None
                try:
                    kernel(model.to(settings.device), x, kind="trace")
                except ValueError as error:
                    refused = sentence(error)
                what = f"{name} is {'refused' if others else 'taken'}, {'with' if tf32 else 'without'} TF32"
                tell({"kind": "check", "what": what, "held": (refused is not None) == others, "told": refused})
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept


def repeated(settings: Settings, tell: Tell) -> None:
    """Two runs under `deterministic` end at the same bits, and what that costs in time."""
    for method in ("fedavg", "fedkfac", "dfedkfac", "ntkdfl"):
        wanted = _cifar(settings, method, model="lenet", partition="iid", rounds=2) | {"deterministic": True}
        runs = [list(ended(settings, **wanted)) for _ in range(2)]
        (_, w), (entry, other) = (run[-1] for run in runs)
        held = all(torch.equal(part, other[name]) for name, part in w.items())
        told = f"round 2 took {entry['seconds']:.3g} s"
        tell({"kind": "check", "what": f"{method} on lenet twice ends at the same bits", "held": held, "told": told})


def frontier(settings: Settings, tell: Tell, *, name: str) -> None:
    """A line of the frontier, seed after seed."""
    count, options = LINES[name]
    for seed in range(sizes(settings).seeds):
        wanted = _papers(settings, rounds=min(count, sizes(settings).shorten), seed=seed, **options)
        for entry in rounds(settings, **wanted):
            tell({"kind": "accuracy", "what": f"Fashion-MNIST, 784-100-10: {name}", "seed": seed, **entry})


def cifar_lines(settings: Settings, tell: Tell) -> None:
    """LeNet on CIFAR-10 at alpha 0.1, beside averaging and training in one place; seed after seed."""
    for seed in range(sizes(settings).seeds):
        for name, (count, options) in CIFAR_LINES.items():
            count = min(count, sizes(settings).shorten)
            wanted = _cifar(settings, model="lenet", partition="dirichlet", rounds=count, seed=seed, **options)
            for entry in rounds(settings, **wanted):
                tell({"kind": "accuracy", "what": f"CIFAR-10, LeNet: {name}", "seed": seed, **entry})


def cifar_residual(settings: Settings, tell: Tell) -> None:
    """ResNet-8 on CIFAR-10 at alpha 0.1."""
    for name in ("FedKFAC", "FedAvg, 5 epochs, rate 0.05"):
        count = min(20, sizes(settings).shorten)
        wanted = _cifar(settings, model="resnet8", partition="dirichlet", rounds=count, **CIFAR_LINES[name][1])
        for entry in rounds(settings, **wanted):
            tell({"kind": "accuracy", "what": f"CIFAR-10, ResNet-8: {name}", "seed": 0, **entry})


def one_exchange(settings: Settings, tell: Tell) -> None:
    """FedFisher's setting, LeNet at alpha 0.1: what one round reaches, then two, four and eight."""
    few, guard = sizes(settings).few_clients, False  # of five clients one may hold more than half of the rows
    for seed in range(sizes(settings).seeds):
        for title, (data, _) in (("Fashion-MNIST", fashion(settings)), ("CIFAR-10", cifar(settings))):
            split: dict[str, Any] = {"partition": "dirichlet", "partition_options": {"alpha": 0.1}, "nodes": few}
            wanted = split | {"dataset": data, "model": "lenet", "rounds": min(8, sizes(settings).shorten)}
            for entry in rounds(settings, method="fedkfac", guard=guard, seed=seed, **wanted):
                what = f"{title}, LeNet, {few} clients: FedKFAC without guard"
                tell({"kind": "accuracy", "what": what, "seed": seed, **entry})


def fedpart(settings: Settings, tell: Tell) -> None:
    """Full and partial FedAvg in turn, round by round, until the time is over: both have as many rounds."""
    own = sizes(settings)
    common: dict[str, Any] = {
        "dataset": cifar(settings)[0],
        "model": "resnet8",
        "model_options": {"norm": "batch"},
        "partition": "iid_overlapping",
        "partition_options": {"size": own.partial_rows},
        "nodes": own.partial_clients,
        "rounds": 125,
    }
    full = rounds(settings, method="fedavg", options=PARTIAL, **common)
    part = rounds(settings, method="fedpart", host="fedavg", host_options=PARTIAL, **common)
    for k, (a, b) in enumerate(zip(full, part, strict=True), start=1):
        for name, entry in (("full", a), ("partial", b)):
            what = f"CIFAR-10, ResNet-8, {own.partial_clients} clients: FedAvg {name}"
            tell({"kind": "accuracy", "what": what, "seed": 0, "cycle": -(-k // 25), **entry})
        if k >= own.shorten:
            return


def rounds(settings: Settings, **wanted: Any) -> Iterator[Row]:
    """What every round of a run took and reached: seconds without evaluation, accuracy, bytes, and the peak so far."""
    for entry, _ in ended(settings, **wanted):
        yield entry


def ended(settings: Settings, **wanted: Any) -> Iterator[tuple[Row, dict[str, Tensor]]]:
    """The same, with the weights after every round."""
    wanted = {"evaluate_nodes_every": 0, "device": settings.device} | wanted
    built = setup(experiment(**wanted))
    warm_up(settings.device)
    wire = built.wire()
    with deterministic(built.experiment):
        start = built.fleet(0, wire)
        data_k = start.each(list(built.data))
        state = built.method.init(start, data_k)
        for k in range(1, built.experiment.rounds + 1):
            state, entry, weights, _ = one_round(built, built.fleet(k, wire), state, data_k, k)
            kept = {name: entry[name] for name in ("round", "seconds", "accuracy", "sent_bytes", "multiply_adds")}
            yield {**kept, "peak_gib": peak(settings.device), "engine": built.engine.name}, weights.value


def synchronised(settings: Settings, result: Any) -> Any:
    """The result, when the device has come to it."""
    if torch.device(settings.device).type == "cuda":
        torch.cuda.synchronize()
    return result


def _kernel(
    settings: Settings, tell: Tell, what: str, model: nn.Module, x: Tensor, kind: Any, target: float | None
) -> None:
    reset_peak(settings.device)
    begin = time.perf_counter()
    synchronised(settings, kernel(model, x, kind=kind))
    first = time.perf_counter() - begin
    repeats = 10 if first < 0.1 else 3 if first < 2 else 1
    taken = seconds(lambda: synchronised(settings, kernel(model, x, kind=kind)), repeats=repeats)
    _tell_time(settings, tell, f"kernel of {what}, {kind}", taken, target, first_s=first)


def _tell_time(settings: Settings, tell: Tell, what: str, taken: float, target: float | None, **more: float) -> None:
    wanted = {} if target is None or settings.miniature else {"target": target}
    tell({"kind": "time", "what": what, "seconds": taken, "peak_gib": peak(settings.device), **more, **wanted})


def _papers(settings: Settings, method: str, **more: Any) -> dict[str, Any]:
    """The papers' setting: alpha 0.1, random regular graph."""
    own = sizes(settings)
    return {
        "method": method,
        "dataset": fashion(settings)[0],
        "model": "mlp",
        "model_options": {"hidden": (own.hidden,)},
        "partition": "papers_dirichlet",
        "partition_options": {"alpha": 0.1, "size": own.rows},
        "nodes": own.nodes,
        **_of(settings, method),
        **more,
    }


def _cifar(settings: Settings, method: str, model: str, partition: str, **more: Any) -> dict[str, Any]:
    """The first CIFAR images, all used, cut alike for all or at alpha 0.1."""
    return {
        "method": method,
        "dataset": cifar(settings)[0],
        "model": network(settings, model),
        "partition": partition,
        "partition_options": {"alpha": 0.1} if partition == "dirichlet" else {},
        "nodes": sizes(settings).clients,
        **_of(settings, method),
        **more,
    }


def _of(settings: Settings, method: str) -> dict[str, Any]:
    """What a method needs beside the defaults."""
    if method in NEIGHBOURS:
        return {"topology": "regular", "topology_options": {"degree": sizes(settings).degree}}
    return {} if sizes(settings).guard or method != "fedkfac" else {"guard": False}
