"""A digest changes with whatever of a part computes something, and with nothing else."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedtangent.experiments.sources import of_function, sources
from fedtangent.federation import Graph
from fedtangent.methods.dfedavg import dfedavg
from fedtangent.training import losses
from fedtangent.training.losses import custom
from fedtangent.training.task import Augmentation
from tests.experiments.tiny import network, tiny

TEXT = """
import functools
from typing import NamedTuple
import torch
from torch import nn

RATE = 0.1
SIZES = (3, 5)
OTHER = 7

class State(NamedTuple):
    w: int

def unused(x):
    return x

def inner(x):
    # what it does
    return x * RATE

class Net(nn.Linear):
    kind = "a"
    def forward(self, x):
        return self.helped(x) + SIZES[0]
    def helped(self, x):
        return inner(x) if x.shape in {(1, 2), (3, 4)} else x
    @property
    def depth(self):
        return 3
    @staticmethod
    def still(x):
        return x

def method(task, *, lr=0.1):
    def round(fleet, state):
        return State(inner(lr)), [k + 1 for k in range(3)]
    return round
"""
EDITS = [
    ("RATE = 0.1", "RATE = 0.2"),
    ("return x * RATE", "return x + RATE"),
    ("k + 1", "k + 2"),
    ("lr=0.1", "lr=0.2"),
    ("w: int", "w: int\n    v: int"),
]
OF_NET = [
    ("RATE = 0.1", "RATE = 0.2"),
    ("SIZES = (3, 5)", "SIZES = (4, 5)"),
    ('kind = "a"', 'kind = "b"'),
    ("+ SIZES[0]", "- SIZES[0]"),
    ("(3, 4)", "(3, 6)"),
    ("return 3", "return 4"),
    ("    def still(x):\n        return x", "    def still(x):\n        return -x"),
]
NO_EDITS = [("# what it does", "# does what"), ("OTHER = 7", "OTHER = 8"), ("def unused(x):\n    return x", "")]


def module(text: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "users_module"}
    exec(text, names)
    return names


def digest(of: Any) -> str:
    return of_function(of)["digest"]


@pytest.mark.parametrize(("old", "new"), EDITS)
def test_a_function_counts_by_its_code_and_what_it_calls(old: str, new: str) -> None:
    assert TEXT.count(old) == 1
    assert digest(module(TEXT)["method"]) != digest(module(TEXT.replace(old, new))["method"])


@pytest.mark.parametrize(("old", "new"), OF_NET)
def test_a_module_counts_by_the_code_of_its_classes(old: str, new: str) -> None:
    assert TEXT.count(old) == 1
    one, other = (module(text)["Net"](3, 2) for text in (TEXT, TEXT.replace(old, new)))
    assert digest(one) != digest(other)
    assert digest(nn.Sequential(one)) != digest(nn.Sequential(other))


@pytest.mark.parametrize(("old", "new"), NO_EDITS)
def test_comments_and_what_is_not_called_do_not_count(old: str, new: str) -> None:
    one, other = module(TEXT), module(TEXT.replace(old, new))
    assert digest(one["method"]) == digest(other["method"])
    assert digest(one["Net"](3, 2)) == digest(other["Net"](3, 2))


def test_it_is_the_same_in_another_process_and_from_a_cached_file(tmp_path: Path) -> None:
    (tmp_path / "users_module.py").write_text(TEXT)
    code = (
        "import users_module; from fedtangent.experiments.sources import of_function as d;"
        "print(d(users_module.method)['digest'], d(users_module.Net(3, 2))['digest'])"
    )
    command, found = [sys.executable, "-c", code], {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    seen = {
        subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, env={**found, "PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1
    assert (tmp_path / "__pycache__").is_dir()


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.eval(),
        lambda m: setattr(m[1], "inplace", True),
        lambda m: m.insert(2, nn.Tanh()),
        lambda m: m.__setitem__(1, nn.Tanh()),
        lambda m: m[0].register_forward_hook(lambda module, inputs, f: 2 * f),
        lambda m: setattr(m, "scale", 2.0),
    ],
)
def test_a_module_counts_by_its_layers_settings_and_hooks(change: Any) -> None:
    one, other = (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)) for _ in range(2))
    assert digest(one) == digest(other)
    change(other)
    assert digest(one) != digest(other)


def test_what_a_wrapper_holds_counts() -> None:
    def smooth(beta: float) -> Any:
        return lambda f, y: nn.functional.smooth_l1_loss(f, y, beta=beta)

    assert digest(custom(smooth(1.0))) == digest(custom(smooth(1.0)))
    assert digest(custom(smooth(1.0))) != digest(custom(smooth(2.0)))
    assert digest(functools.partial(smooth, 1.0)) != digest(functools.partial(smooth, 2.0))


def test_an_object_that_is_called_counts_by_its_class_and_settings() -> None:
    class Loss:
        def __init__(self, factor: float) -> None:
            self.factor, self.me = factor, [self]

        def __call__(self, f: Tensor, y: Tensor) -> Tensor:
            return self.factor * (f - y).square().mean()

    assert digest(Loss(1.0)) == digest(Loss(1.0)) != digest(Loss(2.0))
    assert digest(Loss(1.0).__call__) != digest(Loss(2.0).__call__)


def test_every_part_that_is_code_is_found(tmp_path: Path) -> None:
    assert sources(tiny("fedavg")).keys() == {"method", "model", "topology"}
    assert sources(tiny("dfedavg", topology="ring"))["topology"]["name"] == "ring.py"
    path = tmp_path / "mine.py"
    path.write_text("def mine(task, *, host=None):\n    return 1\n")
    found = sources(tiny(str(path), host="fedprox", engine="sequential", partition="iid", nodes=2))
    assert found.keys() == {"method", "host", "model", "topology", "partition"}
    assert [found[part]["name"] for part in ("method", "host", "partition")] == ["mine.py", "fedprox.py", "iid.py"]
    path.write_text("def mine(task, *, host=None):\n    return 2\n")
    assert sources(tiny(str(path)))["method"]["digest"] != found["method"]["digest"]


def test_objects_from_python_are_parts_as_well() -> None:
    augment = Augmentation(lambda rng, rows: torch.zeros(rows), lambda x, numbers: x)
    graph = Graph([(0, 1), (1, 2), (2, 3), (3, 4)], 5)
    asked = tiny(dfedavg, model=network(), loss=losses.squared, augment=augment, topology=graph, epochs=1)
    found = sources(asked)
    assert found.keys() == {"method", "model", "loss", "augment"}  # a graph and data are on the record themselves
    assert [found[part]["name"] for part in ("method", "model", "loss")] == ["dfedavg.py", "Sequential", "Loss"]
    picked = [tiny(model=network(), outputs=outputs) for outputs in (0, "logits", lambda f: f, lambda f: f["logits"])]
    digests = [sources(one).get("outputs", {}).get("digest") for one in picked]
    assert digests[:2] == [None, None] and len({*digests[2:], None}) == 3
