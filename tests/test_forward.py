from collections import OrderedDict, UserDict
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from fedtangent import forward

X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)


class Said(NamedTuple):
    loss: Any
    logits: Any


class Attributes:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class Net(nn.Module):
    """A linear map of a sum, wrapped as told."""

    def __init__(self, wrap: Any = lambda f: f) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2).double()
        self.wrap = wrap

    def forward(self, x: Tensor, more: Tensor | None = None) -> Any:
        return self.wrap(self.layer(x if more is None else x + 2 * more))


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters()}


def test_a_dict_goes_by_name_and_a_tuple_in_order() -> None:
    model = Net()
    more = X.flip(0)
    expected = model(X, more).detach()
    for x in ({"more": more, "x": X}, (X, more)):
        assert torch.equal(forward.outputs(model, weights(model), x), expected)
    assert torch.equal(forward.outputs(model, weights(model), X), model(X).detach())


@pytest.mark.parametrize(
    ("wrap", "pick"),
    [
        (lambda f: {"loss": None, "logits": f}, "logits"),
        (lambda f: OrderedDict(logits=f), "logits"),
        (lambda f: UserDict(logits=f), "logits"),
        (lambda f: Said(None, f), "logits"),
        (Attributes, "logits"),
        (lambda f: (f, f + 1), 0),
        (lambda f: [f + 1, f], -1),
        (lambda f: {"a": (f, 1)}, lambda found: found["a"][0]),
    ],
)
def test_the_outputs_are_picked(wrap: Any, pick: Any) -> None:
    model = Net(wrap)
    assert torch.equal(forward.outputs(model, weights(model), X, pick), model.layer(X).detach())


def test_one_number_a_row_is_one_output() -> None:
    model = Net(lambda f: f[:, 0])
    assert torch.equal(forward.outputs(model, weights(model), X), model.layer(X).detach()[:, :1])
    squeezed = Net(lambda f: f.squeeze())
    assert forward.outputs(squeezed, weights(squeezed), X[:1]).shape == (2,)  # outputs of one row, and no rows


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_outputs_of_half_precision_are_in_the_weights_type(half: torch.dtype) -> None:
    model = Net(lambda f: f.to(half))
    found = forward.outputs(model, weights(model), X)
    assert found.dtype == torch.float64
    assert torch.equal(found, model.layer(X).detach().to(half).double())


@pytest.mark.parametrize(
    ("wrap", "pick", "message"),
    [
        (
            lambda f: {"loss": 1, "logits": f},
            None,
            r"^`model` must return a tensor; got dict of loss, logits\. Say .*='lo",
        ),
        (lambda f: (f,), None, r"^`model` must return a tensor; got tuple\. Say which"),
        (
            lambda f: {"logits": f},
            "logit",
            r"^`outputs` must name a part of what .*, dict of logits; got 'logit'\. Name",
        ),
        (lambda f: Said(None, f), "f", r"^`outputs` must name a part of what .*, Said of loss, logits; got 'f'\. Name"),
        (lambda f: (f,), 1, r"^`outputs` must name a part of what the model returns, tuple; got 1\. Name another\.$"),
        (
            lambda f: Said(None, f),
            "loss",
            r"^`outputs` must pick a tensor; got NoneType for 'loss'\. Pick another part",
        ),
    ],
)
def test_outputs_that_are_none(wrap: Any, pick: Any, message: str) -> None:
    model = Net(wrap)
    with pytest.raises(forward.NoOutputs, match=message):
        forward.outputs(model, weights(model), X, pick)
