"""A tied parameter is exchanged under all of its names, a module that is listed twice once."""

import torch
from torch import nn

from fedtangent.tied import every_name


def test_every_name() -> None:
    shared, words = nn.Linear(3, 3), nn.Embedding(3, 3)
    model = nn.ModuleDict({"a": nn.Sequential(shared), "b": nn.Sequential(shared), "words": words})
    model["head"] = nn.Linear(3, 3, bias=False)
    model["head"].weight = words.weight
    w = {name: torch.full_like(p, 7.0) for name, p in model.named_parameters()}
    assert list(w) == ["a.0.weight", "a.0.bias", "words.weight"]
    found = every_name(model, w)
    assert list(found) == ["a.0.weight", "a.0.bias", "words.weight", "head.weight"]
    assert "a.0.mean" in every_name(model, {"a.0.mean": words.weight})  # a buffer goes through
    assert found["head.weight"] is w["words.weight"]
    assert list(every_name(model, {"words.weight": words.weight})) == ["words.weight", "head.weight"]


def test_a_shared_module_keeps_its_parameters() -> None:
    shared = nn.Linear(3, 3)
    model = nn.Sequential(nn.Sequential(shared), nn.Sequential(shared))
    before = shared.weight
    w = every_name(model, {name: 2 * p.detach() for name, p in model.named_parameters()})
    torch.func.functional_call(model, w, (torch.ones(2, 3),), tie_weights=False)
    assert shared.weight is before and isinstance(shared.weight, nn.Parameter)
