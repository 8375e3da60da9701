"""Dropout as a function of a key: its numbers typed literally, and every random function against torch's own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedtangent.intercept import Intercept
from fedtangent.training import dropout
from tests.training import literal_dropout

KEY = -8_765_432_109_876_543_210
SHAPES: list[tuple[int, ...]] = [(5,), (4, 7), (3, 2, 6), (2, 3, 4, 5), (6, 3, 1, 1), (3, 0)]
P = 0.3


def key(number: int = KEY) -> Tensor:
    return torch.tensor(number)


def drawn(fn: Callable[[], Any], at: int = KEY, torchs: int = 0) -> Any:
    """What a function draws from a key, whatever torch's own seed."""
    torch.manual_seed(torchs)
    with dropout.keyed(key(at)), Intercept(dropout.REPLACED):
        return fn()


@pytest.mark.parametrize("shape", SHAPES)
def test_numbers_are_the_documented_ones(shape: tuple[int, ...]) -> None:
    for call in (0, 1, 13):
        found = dropout.numbers(key(), call, shape)
        assert found.dtype == torch.int32
        assert torch.equal(found.long(), literal_dropout.numbers(KEY, call, shape))
    assert dropout.numbers(key(), 2, ()) == literal_dropout.number(KEY, 2, (0,))


@pytest.mark.parametrize("axis", range(4))
def test_padding_of_any_axis_shifts_nothing(axis: int) -> None:
    shape, padded = [2, 3, 4, 5], [2, 3, 4, 5]
    padded[axis] += 3
    assert torch.equal(dropout.numbers(key(), 1, padded).narrow(axis, 0, shape[axis]), dropout.numbers(key(), 1, shape))


def test_under_vmap_every_node_has_its_own() -> None:
    keys = torch.tensor([KEY, 5, -7])
    found = torch.func.vmap(lambda key: dropout.numbers(key, 3, (4, 5)))(keys)
    assert torch.equal(found, torch.stack([dropout.numbers(one, 3, (4, 5)) for one in keys]))


SAMPLE = (64, 40, 33)  # rows and two more axes


def signs(at: Tensor, call: int) -> Tensor:
    """Each of a number's 32 bits as -1 or 1, (*SAMPLE, 32)."""
    bits = dropout.numbers(at, call, SAMPLE)[..., None] >> torch.arange(32, dtype=torch.int32)
    return (bits & 1).float() * 2 - 1


def test_bits_are_fair_and_hang_together_with_no_others() -> None:
    """Between rows, along every axis, between calls, steps and keys that differ in one bit: every pair of bits.

    A mean of n signs has deviation 1 / sqrt(n); of a few thousand of them none is beyond 5.
    """
    here = signs(key(), 0)
    n = here[..., 0].numel()
    assert (here.mean((0, 1, 2)).abs() * n**0.5).max() < 5
    others = [signs(key(), 1), signs(key(), 2), signs(key(KEY + 1), 0), signs(key(KEY ^ (1 << 40)), 0)]
    others += [here.roll(1, axis) for axis in range(3)] + [here.roll((1, 1, -1), (0, 1, 2)), here.roll(2, 2)]
    for other in others:
        together = here.flatten(0, 2).T @ other.flatten(0, 2) / n**0.5
        assert together.abs().max() < 5.5
    within = here.flatten(0, 2).T @ here.flatten(0, 2) / n**0.5
    assert (within - within.diag().diag()).abs().max() < 5.5


def test_masks_keep_their_share_row_by_row() -> None:
    x = torch.ones(300, 2000)
    for p in (0.1, 0.5, 0.97):
        kept = drawn(lambda p=p: F.dropout(x, p)) != 0
        share = kept.double().mean(1)
        bound = (p * (1 - p) / 2000) ** 0.5
        assert (share - (1 - p)).abs().max() < 5 * bound
        assert share.std() == pytest.approx(bound, rel=0.2)  # as far apart as of independent entries


def test_types_draw_the_same() -> None:
    for fn in (F.dropout, torch.rand_like, torch.bernoulli):
        one, other = (
            drawn(lambda fn=fn, t=t: fn(torch.full((5, 7), 0.5, dtype=t))) for t in (torch.float32, torch.float64)
        )
        assert torch.equal(one.double(), other)


DROPOUTS: list[tuple[Callable[..., Tensor], tuple[int, ...]]] = [
    (F.dropout, (6, 50)),
    (F.dropout1d, (6, 20, 4)),
    (F.dropout2d, (6, 20, 3, 2)),
    (F.dropout3d, (6, 20, 3, 2, 2)),
    (F.alpha_dropout, (6, 50)),
    (F.feature_alpha_dropout, (6, 20, 3)),
]


@pytest.mark.parametrize(("fn", "shape"), DROPOUTS)
def test_dropout_of_a_constant_takes_torchs_values_in_torchs_places(fn: Any, shape: tuple[int, ...]) -> None:
    x = torch.full(shape, 1.7, dtype=torch.float64)
    torch.manual_seed(3)
    theirs, ours = fn(x, P, True), drawn(lambda: fn(x, P, True))
    torch.testing.assert_close(ours.unique(), theirs.unique(), rtol=1e-12, atol=1e-12)
    inside = range(2, len(shape))
    alike = [all(float(values.std(i).abs().max()) == 0 for i in inside) for values in (ours, theirs)]
    assert alike[0] == alike[1]
    kept = (ours == ours.max()).double()
    assert 0.5 < kept.mean() < 0.9
    assert len({tuple(row.flatten().tolist()) for row in kept}) == len(x)  # no two rows alike
    assert torch.equal(drawn(lambda: fn(x, P, True), torchs=9), ours)
    assert not torch.equal(drawn(lambda: fn(x, P, True), at=KEY + 1), ours)


@pytest.mark.parametrize(("fn", "shape"), DROPOUTS)
def test_dropout_in_place(fn: Any, shape: tuple[int, ...]) -> None:
    x = torch.full(shape, 1.7, dtype=torch.float64)
    y = x.clone()
    assert drawn(lambda: fn(y, P, True, True)) is y
    torch.testing.assert_close(y, drawn(lambda: fn(x, P, True)))


@pytest.mark.parametrize(("fn", "shape"), DROPOUTS)
@pytest.mark.parametrize(("p", "train"), [(0.0, True), (P, False), (1.0, True)])
def test_where_nothing_is_drawn_it_is_torchs(fn: Any, shape: tuple[int, ...], p: float, train: bool) -> None:
    x = torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape)
    assert torch.equal(drawn(lambda: fn(x, p, train)), fn(x, p, train))
    with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1"):
        drawn(lambda: fn(x, 1.5, train))


def test_dropout_is_the_documented_one_call_by_call() -> None:
    x = torch.randn(4, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Dropout(P), nn.Dropout(0.6, inplace=True))
    expected = literal_dropout.dropped(literal_dropout.dropped(x, P, KEY, 0), 0.6, KEY, 1)
    torch.testing.assert_close(drawn(lambda: model(x)), expected, rtol=1e-12, atol=1e-12)


def test_gradients_go_through_what_is_kept_under_vmap() -> None:
    x = torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    keys = torch.tensor([KEY, 5, -7])

    def gradient(x: Tensor, key: Tensor) -> Tensor:
        with dropout.keyed(key), Intercept(dropout.REPLACED):
            value, pull = torch.func.vjp(lambda x: (F.dropout(x, P, inplace=False) ** 2).sum(), x)
            return pull(torch.ones_like(value))[0]  # type: ignore[no-any-return]

    found = torch.func.vmap(gradient)(x, keys)
    for own, at, its in zip(x, keys.tolist(), found, strict=True):
        once = literal_dropout.dropped(own, P, at, 0)
        torch.testing.assert_close(its, 2 * literal_dropout.dropped(once, P, at, 0), rtol=1e-12, atol=1e-12)


def attention(shape: tuple[int, ...] = (2, 4, 5, 6), groups: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    rows, _, length, width = shape
    sides = [(rows, shape[1], length, width), (rows, groups, 7, width), (rows, groups, 7, 3)]
    return tuple(torch.randn(*side, dtype=torch.float64, generator=g) for side in sides)  # type: ignore[return-value]


MASK = torch.tensor([[True, True, False, True, True, False, True]] * 5)
ATTENTION: list[dict[str, Any]] = [
    {},
    {"attn_mask": MASK},
    {"attn_mask": MASK & (torch.arange(5)[:, None] != 3)},  # one attends to nothing
    {"attn_mask": torch.linspace(-1, 1, 35, dtype=torch.float64).reshape(5, 7)},
    {"is_causal": True},
    {"scale": 0.2},
    {"enable_gqa": True},
]


@pytest.mark.parametrize("how", ATTENTION)
def test_attention_is_torchs_but_for_its_masks(how: dict[str, Any]) -> None:
    q, k, v = attention(groups=2 if "enable_gqa" in how else 4)
    whole = F.scaled_dot_product_attention(q, k, v, **how)
    found = drawn(lambda: F.scaled_dot_product_attention(q, k, v, dropout_p=1e-12, **how))  # none is dropped
    torch.testing.assert_close(found, whole, rtol=1e-10, atol=1e-10)
    assert torch.equal(drawn(lambda: F.scaled_dot_product_attention(q, k, v, **how)), whole)
    share = drawn(lambda: F.scaled_dot_product_attention(q, k, v, dropout_p=P, **how))
    assert not torch.allclose(share, whole, rtol=0.01)


def test_attention_drops_weights_out() -> None:
    q, k, v = attention()
    weights = torch.softmax(q @ k.mT / 6**0.5, -1)
    expected = literal_dropout.dropped(weights, P, KEY, 0) @ v
    torch.testing.assert_close(drawn(lambda: F.scaled_dot_product_attention(q, k, v, dropout_p=P)), expected)


@pytest.mark.parametrize("weights", [True, False])
def test_multi_head_attention(weights: bool) -> None:
    torch.manual_seed(0)
    layer, x = nn.MultiheadAttention(6, 2, dropout=P, batch_first=True).double(), torch.randn(3, 5, 6).double()

    def call() -> Tensor:
        return layer(x, x, x, need_weights=weights)[0]  # type: ignore[no-any-return]

    found = drawn(call)
    assert torch.equal(drawn(call, torchs=9), found)
    assert not torch.allclose(drawn(call, at=KEY + 1), found)
    q, k, v = (x @ w.T + b for w, b in zip(layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3), strict=True))
    q, k, v = (side.reshape(3, 5, 2, 3).transpose(1, 2) for side in (q, k, v))
    scores = torch.softmax(q @ k.mT / 3**0.5, -1)
    if weights:  # torch makes rows and heads one axis
        scores = literal_dropout.dropped(scores.flatten(0, 1), P, KEY, 0).unflatten(0, (3, 2))
    else:
        scores = literal_dropout.dropped(scores, P, KEY, 0)
    mixed = (scores @ v).transpose(1, 2).reshape(3, 5, 6)
    torch.testing.assert_close(found, layer.out_proj(mixed), rtol=1e-10, atol=1e-10)


BIG = torch.full((80, 500), 0.3, dtype=torch.float64)
RANDOM: dict[str, tuple[Callable[[], Tensor], float, float]] = {  # and its mean and deviation
    "rand": (lambda: torch.rand(80, 500, dtype=torch.float64), 0.5, 12**-0.5),
    "rand of a size": (lambda: torch.rand((80, 500)), 0.5, 12**-0.5),
    "rand_like": (lambda: torch.rand_like(BIG), 0.5, 12**-0.5),
    "randn": (lambda: torch.randn(80, 500, dtype=torch.float64), 0, 1),
    "randn_like": (lambda: torch.randn_like(BIG), 0, 1),
    "bernoulli": (lambda: torch.bernoulli(BIG), 0.3, 0.21**0.5),
    "bernoulli of p": (lambda: torch.bernoulli(BIG, 0.7), 0.7, 0.21**0.5),
    "method bernoulli": (lambda: BIG.bernoulli(), 0.3, 0.21**0.5),
    "bernoulli_": (lambda: torch.empty(80, 500).bernoulli_(0.7), 0.7, 0.21**0.5),
    "bernoulli_ by name": (lambda: torch.empty(80, 500).bernoulli_(p=0.7), 0.7, 0.21**0.5),
    "bernoulli_ of a tensor": (lambda: BIG.clone().bernoulli_(BIG), 0.3, 0.21**0.5),
    "uniform_": (lambda: BIG.clone().uniform_(-1, 5), 2, 6 * 12**-0.5),
    "uniform_ by name": (lambda: BIG.clone().uniform_(to=5), 2.5, 5 * 12**-0.5),
    "normal_": (lambda: BIG.clone().normal_(3, std=2), 3, 2),
    "exponential_": (lambda: BIG.clone().exponential_(4), 0.25, 0.25),
    "gumbel_softmax": (lambda: F.gumbel_softmax(BIG[:, :2])[:, 0], 0.5, 0.28),
    "rrelu": (lambda: F.rrelu(-BIG, 0.2, 0.4, training=True), -0.09, 0.06 * 12**-0.5),
    "rrelu_": (lambda: F.rrelu(-BIG, 0.2, 0.4, training=True, inplace=True), -0.09, 0.06 * 12**-0.5),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_functions_have_their_moments_and_hang_on_the_key(name: str) -> None:
    fn, mean, deviation = RANDOM[name]
    found = drawn(fn)
    n = found.numel()
    assert float(found.double().mean()) == pytest.approx(mean, abs=5 * deviation / n**0.5)
    assert float(found.double().std()) == pytest.approx(deviation, rel=0.3 if n < 100 else 0.03)
    assert torch.equal(drawn(fn, torchs=9), found)
    assert not torch.equal(drawn(fn, at=KEY + 1), found)
    with Intercept(dropout.REPLACED):  # in no training step: torch's own chance
        torch.manual_seed(1)
        here = fn()
    torch.manual_seed(1)
    assert torch.equal(here, fn())


def test_a_probability_above_one_is_one_clear_sentence() -> None:
    with pytest.raises(ValueError, match=r"^`p` must be in \[0, 1\]; got 1.5\. Give a probability\.$"):
        drawn(lambda: torch.empty(3).bernoulli_(1.5))


def test_normal_numbers_are_normal() -> None:
    found = drawn(lambda: torch.randn(200, 500, dtype=torch.float64)).flatten()
    for at, below in ((-2.0, 0.02275), (-1.0, 0.15866), (0.0, 0.5), (1.0, 0.84134), (2.0, 0.97725)):
        assert float((found < at).double().mean()) == pytest.approx(below, abs=0.006)


def test_a_generator_of_ones_own_is_left_alone() -> None:
    def fill() -> Tensor:
        g = torch.Generator().manual_seed(4)
        return torch.cat([torch.rand(3, generator=g), torch.zeros(2).normal_(generator=g)])

    assert torch.equal(drawn(fill), fill())


def test_memory_to_be_filled_is_of_every_node_s_own() -> None:
    """torchvision's and timm's stochastic depth."""

    def path(x: Tensor, key: Tensor) -> Tensor:
        with dropout.keyed(key), Intercept(dropout.REPLACED):
            first = torch.empty([len(x), 1], dtype=x.dtype)
            first.bernoulli_(0.6)  # the result is not taken
            return x * first * x.new_empty(len(x), 1).bernoulli_(0.6).div_(0.6)

    x, keys = torch.rand(3, 40, 2) + 1, torch.tensor([KEY, 5, -7])
    found = torch.func.vmap(path)(x, keys)
    assert torch.equal(found, torch.stack([path(*row) for row in zip(x, keys, strict=True)]))
    kept = found[..., 0] != 0
    assert 0.2 < kept.double().mean() < 0.52
    assert len({tuple(row.tolist()) for row in kept}) == 3


def test_a_step_without_a_key_is_one_clear_sentence() -> None:
    message = r"^`key` must be given for a model that draws random numbers; got None\. Take one of the batches' keys\.$"
    with pytest.raises(ValueError, match=message), dropout.keyed(None), Intercept(dropout.REPLACED):
        F.dropout(torch.ones(3))


def test_off_draws_nothing_in_the_middle_of_a_step() -> None:
    with dropout.keyed(key()) as draws:
        assert dropout.is_on()
        with dropout.off():
            assert not dropout.is_on()
        assert dropout.is_on()
    assert not dropout.is_on() and draws.calls == 0


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (nn.Dropout(0.1), "1"),
        (nn.Dropout(0.0), None),
        (nn.Dropout(0.1).eval(), None),
        (nn.RReLU(), "1"),
        (nn.AlphaDropout(0.2), "1"),
        (nn.MultiheadAttention(4, 2, dropout=0.1), "1"),
        (nn.MultiheadAttention(4, 2), None),
    ],
)
def test_the_first_module_that_draws_is_named(part: nn.Module, name: str | None) -> None:
    assert dropout.place(nn.Sequential(nn.Linear(4, 4), part)) == name
