"""Groups found from a model: FedPart's own tables, and models whose order of use is not their order of definition."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedtangent import catalog
from fedtangent.training.groups import chosen, layer_groups
from fedtangent.training.task import Task

# Parameters of each group, from FedPart's code: stem; conv1, conv2 of a block, then its down-sample; classifier.
RESNET8 = [9_536, 36_992, 36_992, 73_984, 147_712, 8_448, 295_424, 590_336, 33_280, 2_570]
RESNET18 = [
    *[9_536, 36_992, 36_992, 36_992, 36_992],
    *[73_984, 147_712, 8_448, 147_712, 147_712],
    *[295_424, 590_336, 33_280, 590_336, 590_336],
    *[1_180_672, 2_360_320, 132_096, 2_360_320, 2_360_320, 5_130],
]
TRANSFORMER = [6_066_600, *[160_800, 81_200] * 3, 1_005]
LENET = [156, 2_416, 48_120, 10_164, 850]


def task(
    model: str | nn.Module, inputs: tuple[int, ...], outputs: int = 10, example: bool = True, **options: Any
) -> Task:
    if isinstance(model, str):
        model = catalog.load("models", model)(inputs, outputs, np.random.default_rng(1), **options)
    return Task(model, example=torch.ones(2, *inputs) if example else None)  # type: ignore[arg-type]


def sizes(task: Task, groups: list[tuple[str, ...]]) -> list[int]:
    return [sum(task.w_0[name].numel() for name in group) for group in groups]


@pytest.mark.parametrize("example", [True, False])
@pytest.mark.parametrize(
    ("model", "inputs", "outputs", "expected"),
    [
        ("resnet8", (3, 32, 32), 10, RESNET8),
        ("resnet8", (3, 32, 32), 100, [*RESNET8[:-1], 25_700]),
        ("resnet18", (3, 32, 32), 10, RESNET18),
        ("lenet", (1, 28, 28), 10, LENET),
        ("mlp", (7,), 3, [7 * 100 + 100, 100 * 3 + 3]),
        ("linear", (7,), 3, [24]),
    ],
)
def test_the_groups_of_every_model(
    model: str, inputs: tuple[int, ...], outputs: int, expected: list[int], example: bool
) -> None:
    made = task(model, inputs, outputs, example)
    assert sizes(made, layer_groups(made)) == expected


def test_the_groups_of_the_transformer() -> None:
    """Embedding; attention, then feed-forward with both normalisations, of each layer; classifier."""
    made = task("transformer", (6,), 5)
    groups = layer_groups(made)
    assert sizes(made, groups) == TRANSFORMER
    assert all(name.startswith("layer1.attention.") for name in groups[3])
    assert {name.split(".")[2] for name in groups[4]} == {"norm1", "up", "down", "norm2"}


@pytest.mark.parametrize("norm_first", [False, True])
def test_the_groups_of_torchs_encoder_layers(norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(6, 2, 8, 0.0, batch_first=True, norm_first=norm_first)
    stack = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    for example in (True, False):
        made = task(nn.Sequential(nn.Linear(4, 6), stack, nn.Flatten(), nn.Linear(30, 3)), (5, 4), example=example)
        parts = [
            {name.split(".")[3] if name.startswith("1") else name for name in group} for group in layer_groups(made)
        ]
        layer_parts = [{"self_attn"}, {"linear1", "linear2", "norm1", "norm2"}]
        assert parts == [{"0.weight", "0.bias"}, *layer_parts, *layer_parts, {"3.weight", "3.bias"}]


class Crossed(nn.Module):
    """Defined in another order than used; two layers run before their normalisations do; one has a scale of its own."""

    def __init__(self, unused: bool = False) -> None:
        super().__init__()
        self.last = nn.Linear(4, 2)
        self.norm_b, self.norm_a = nn.LayerNorm(4), nn.LayerNorm(4)
        self.b, self.a = nn.Linear(3, 4), nn.Linear(3, 4)
        self.scale = nn.Parameter(torch.ones(4))
        self.gate = nn.PReLU()
        if unused:
            self.spare = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        h = self.gate(self.norm_a(a)) * self.scale + self.norm_b(b)
        out: Tensor = self.last(h)
        return out


def test_the_order_is_that_of_use_and_a_normalisation_joins_the_layer_whose_output_it_takes() -> None:
    groups = [set(group) for group in layer_groups(task(Crossed(), (3,)))]
    assert groups[0] >= {"a.weight", "a.bias", "norm_a.weight", "norm_a.bias", "gate.weight"}
    assert groups[1] >= {"b.weight", "b.bias", "norm_b.weight", "norm_b.bias"}
    assert groups[2] == {"last.weight", "last.bias"}
    assert sum(map(len, groups)) == len(task(Crossed(), (3,)).w_0)
    defined = layer_groups(task(Crossed(), (3,), example=False))  # nothing tells its use
    assert defined[0] == ("scale",)
    assert {"last.weight", "norm_b.weight", "norm_a.weight"} < set(defined[1])


class Tied(nn.Module):
    """The same weights twice, and a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.frozen, self.second = nn.Linear(5, 5), nn.Linear(5, 5).requires_grad_(False), nn.Linear(5, 5)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.frozen(self.first(x)))
        return out


def test_tied_weights_are_in_one_group_and_frozen_ones_in_none() -> None:
    assert layer_groups(task(Tied(), (5,))) == [("first.weight", "first.bias", "second.bias")]


def test_a_parameter_that_is_not_used() -> None:
    with pytest.raises(
        ValueError, match=r"^`model` must use every trainable parameter; got 'spare.weight' unused\. .*"
    ):
        layer_groups(task(Crossed(unused=True), (3,)))


def test_groups_by_hand_name_parameters_or_modules() -> None:
    made = task("mlp", (7,), 3)
    weight, bias, *rest = made.w_0
    module = rest[0].rpartition(".")[0]
    assert chosen(made, [[weight], [module, bias]]) == [(weight,), (*rest, bias)]
    assert chosen(made, [weight.rpartition(".")[0], module]) == [(weight, bias), tuple(rest)]  # type: ignore[list-item]


REST = ["b", "gate", "last", "norm_a", "norm_b", "scale"]
ONCE = "`groups` must hold every trainable parameter once; got "


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([["a", "b", "last", "norm_a", "norm_b", "scale"]], ONCE + "'gate.weight' 0 times. Put it into one group."),
        ([["a"], ["a.bias", *REST]], ONCE + "'a.bias' 2 times. Put it into one group."),
        (
            [["conv1"], ["a"]],
            "`groups` must name trainable parameters of the model, or modules; got 'conv1'. Its parameters are ",
        ),
        ([["a", *REST], []], "`groups` must each hold a parameter; got an empty one. Drop it."),
    ],
)
def test_wrong_groups_are_one_clear_sentence(groups: list[list[str]], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        chosen(task(Crossed(), (3,)), groups)
    assert str(caught.value).startswith(message)
