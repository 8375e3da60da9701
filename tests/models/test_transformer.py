"""The text classifier: typed once more token by token, its sizes by hand, and what padding may not change."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fedtangent.models.transformer import transformer

SMALL = {"ids": 13, "width": 12, "heads": 3, "layers": 2, "feedforward": 5}


def small(seed: int = 1) -> torch.nn.Sequential:
    """In general position: biases and scales too."""
    model = transformer((9,), 4, np.random.default_rng(seed), **SMALL).double()
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.data += 0.2 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
    return model


def test_the_papers_sizes() -> None:
    model = transformer((64,), 5, np.random.default_rng(0))
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    attention, feed = 4 * (200 * 200 + 200), (200 * 200 + 200) * 2 + 4 * 200
    assert (attention, feed) == (160_800, 81_200)
    assert sizes == {
        "embedding": 6_066_600, **dict.fromkeys(("layer0", "layer1", "layer2"), attention + feed), "classifier": 1_005,
    }  # fmt: skip
    layer = model.get_submodule("layer1")
    assert [(name, sum(p.numel() for p in part.parameters())) for name, part in layer.named_children()] == [
        ("attention", attention), ("feed", feed),
    ]  # fmt: skip


def literal(w: dict[str, Tensor], ids: list[int]) -> Tensor:
    """One text, its tokens only, one head and one token after the other."""
    width, heads = SMALL["width"], SMALL["heads"]
    h = []
    for at, token in enumerate(ids):
        place = [f(at / 10_000 ** (2 * i / width)) for i in range(width // 2) for f in (math.sin, math.cos)]
        h.append(w["embedding.tokens.weight"][token] + torch.tensor(place, dtype=torch.float64))

    def norm(z: Tensor, name: str) -> Tensor:
        z = z - z.mean()
        return z / ((z**2).mean() + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    for k in range(SMALL["layers"]):
        sides = [w[f"layer{k}.attention.sides.weight"] @ z + w[f"layer{k}.attention.sides.bias"] for z in h]
        d, found = width // heads, []
        for mine, z in zip(sides, h, strict=True):
            seen = []
            for head in range(heads):
                q = mine[head * d : (head + 1) * d]
                keys = torch.stack([side[width + head * d : width + (head + 1) * d] for side in sides])
                values = torch.stack([side[2 * width + head * d : 2 * width + (head + 1) * d] for side in sides])
                e = (keys @ q / math.sqrt(d)).exp()
                seen.append((e / e.sum()) @ values)
            a = w[f"layer{k}.attention.mix.weight"] @ torch.cat(seen) + w[f"layer{k}.attention.mix.bias"]
            z = norm(z + a, f"layer{k}.feed.norm1")
            up = (w[f"layer{k}.feed.up.weight"] @ z + w[f"layer{k}.feed.up.bias"]).clamp(min=0)
            down = w[f"layer{k}.feed.down.weight"] @ up + w[f"layer{k}.feed.down.bias"]
            found.append(norm(z + down, f"layer{k}.feed.norm2"))
        h = found
    return w["classifier.weight"] @ h[-1] + w["classifier.bias"]


TEXTS = [[5, 2, 9, 1, 12, 7, 3, 3, 8], [4, 11, 6], [10], [2, 2, 7, 1, 12, 6]]


def padded(texts: list[list[int]], length: int) -> Tensor:
    return torch.tensor([text + [0] * (length - len(text)) for text in texts], dtype=torch.float64)


def test_computes_its_formula_whatever_the_padding() -> None:
    model = small()
    w = dict(model.state_dict())
    expected = torch.stack([literal(w, text) for text in TEXTS])
    torch.testing.assert_close(model(padded(TEXTS, 9)), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model(padded(TEXTS, 15)), expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(model(padded(TEXTS, 9).long()), model(padded(TEXTS, 9).float()))


def test_padding_has_no_gradient_and_a_text_without_tokens_a_finite_one() -> None:
    model = small()
    model(padded(TEXTS, 9)).square().sum().backward()
    gradient = model.get_submodule("embedding.tokens").weight.grad
    assert isinstance(gradient, Tensor)
    assert not gradient[0].any() and gradient[1:].any(1).all()
    model.zero_grad()
    model(padded([[], [3]], 9)).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_first_weights() -> None:
    model = transformer((8,), 5, np.random.default_rng(3), ids=1001, width=60)
    w = model.state_dict()
    assert w["embedding.tokens.weight"].double().std().item() == pytest.approx(1, abs=0.01)
    assert w["layer2.attention.sides.weight"].double().std().item() == pytest.approx(60**-0.5, rel=0.03)
    assert w["layer0.feed.down.weight"].double().std().item() == pytest.approx(200**-0.5, rel=0.03)


def test_an_id_that_the_embedding_lacks() -> None:
    with pytest.raises(ValueError, match=r"^`ids` must be above every token id of the data; got 13. Count the padding"):
        small()(padded([[4, 13]], 9))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": (3, 32, 32)}, r"^`inputs` must be \(length,\) for rows of token ids; got \(3, 32, 32\)"),
        ({"outputs": 0}, r"^`outputs` must be at least 1; got 0"),
        ({"ids": 0}, r"^`ids` must be at least 1; got 0"),
        ({"heads": 0}, r"^`heads` must be at least 1; got 0"),
        ({"layers": -1}, r"^`layers` must be at least 1; got -1"),
        ({"feedforward": 0}, r"^`feedforward` must be at least 1; got 0"),
        ({"width": 9}, r"^`width` must be a multiple of twice the heads, 4; got 9"),
        ({"width": 0}, r"^`width` must be a multiple of twice the heads, 4; got 0"),
    ],
)
def test_one_sentence_names_what_is_wrong(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transformer(**({"inputs": (9,), "outputs": 4, "rng": np.random.default_rng(0)} | change))  # type: ignore[arg-type]
