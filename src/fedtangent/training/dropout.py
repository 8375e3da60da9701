"""Dropout, and whatever else a model draws in a training step, as a function of the step's key.

Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov. Dropout. JMLR 2014. A random function's call number c (from 0)
in a step with key k draws for the entry at (i_1, ..., i_d), all arithmetic modulo 2^64:

    z <- k + m c + m^2 i_1 + ... + m^d i_(d-1) + m^(d+1) floor(i_d / 2)         m = 0xD1342543DE82EF95
    z <- (z xor (z >> 30)) 0xBF58476D1CE4E5B9
    z <- (z xor (z >> 27)) 0x94D049BB133111EB
    z <- z xor (z >> 31)
    n <- the lower 32 bits of z where i_d is even, the upper ones where it is odd, as a number in [-2^31, 2^31)

This is the finaliser of SplitMix64 (Steele, Lea, Flood. Fast splittable pseudorandom number generators. OOPSLA 2014)
at counters m^j apart, m a multiplier that spreads them evenly (Steele, Vigna. Computationally easy, spectrally good
multipliers. 2022). An entry is kept by dropout where n < 2^32 (1 - p) - 2^31. So neither the engine, nor rows that are
padding, nor the type of the numbers, nor the device changes what is drawn, and no mask is stored beyond its step.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd

from fedtangent.errors import SettingError


class Draws:
    """What a training step draws from its key: every call of a random function other numbers."""

    def __init__(self, key: Tensor | None) -> None:
        """Begins with the key, a scalar of int64; None for a model that draws nothing."""
        self.key, self.calls = key, 0

    def numbers(self, shape: Sequence[int]) -> Tensor:
        """The next call's numbers in [-2^31, 2^31), of this shape, as int32."""
        if self.key is None:
            raise SettingError(
                "`key` must be given for a model that draws random numbers; got None. Take one of the batches' keys."
            )
        self.calls += 1
        return numbers(self.key, self.calls - 1, shape)


_DRAWS: ContextVar[Draws | None] = ContextVar("draws", default=None)


@contextmanager
def keyed(key: Tensor | None) -> Iterator[Draws]:
    """Inside, a model is in a training step whose chance hangs on this key alone."""
    token = _DRAWS.set(draws := Draws(key))
    try:
        yield draws
    finally:
        _DRAWS.reset(token)


@contextmanager
def off() -> Iterator[None]:
    """Inside, a model draws nothing, also in the middle of a training step."""
    token = _DRAWS.set(None)
    try:
        yield
    finally:
        _DRAWS.reset(token)


def is_on() -> bool:
    """Whether this is a training step."""
    return _DRAWS.get() is not None


def place(model: nn.Module) -> str | None:
    """The name of the first module of torch's that draws random numbers in train mode; None if there is none."""
    for name, part in model.named_modules():
        if part.training and (isinstance(part, nn.RReLU) or drop_rate(part) > 0):
            return str(name)
    return None


def drop_rate(part: nn.Module) -> float:
    """The share of its numbers that a module of torch's, on its own, drops in train mode."""
    rate = part.p if isinstance(part, _DropoutNd) else getattr(part, "dropout", 0)
    return rate if isinstance(rate, float) else 0.0


def _wrapped(number: int) -> int:
    """A number modulo 2^64, as int64 holds it."""
    return (number + 2**63) % 2**64 - 2**63


_STEP = 0xD1342543DE82EF95
_MIX = ((30, _wrapped(0xBF58476D1CE4E5B9)), (27, _wrapped(0x94D049BB133111EB)), (31, None))


def numbers(key: Tensor, call: int, shape: Sequence[int]) -> Tensor:
    """The numbers of a call, as int32 of this shape: see the head of this file.

    Args:
        key: A scalar of int64; it may be batched by vmap.
        call: Which call it is.
        shape: Of what is drawn.
    """
    *outer, last = shape or (1,)
    sizes, z = (*outer, (last + 1) // 2), key + _wrapped(_STEP * call)
    for axis, size in enumerate(sizes):
        step = torch.arange(size, device=key.device) * _wrapped(pow(_STEP, axis + 2, 2**64))
        z = z + step.reshape(-1, *[1] * (len(sizes) - 1 - axis))
    for shift, factor in _MIX:
        high = z >> shift
        high &= (1 << (64 - shift)) - 1  # torch shifts the sign in
        z ^= high
        if factor is not None:
            z *= factor
    try:
        words = z.view(torch.int32)
    except RuntimeError:  # under vmap in PyTorch 2.9
        words = torch.stack((z.to(torch.int32), (z >> 32).to(torch.int32)), -1).flatten(-2)
    return words[..., :last].reshape(tuple(shape))


def _now() -> Draws:
    draws = _DRAWS.get()
    assert draws is not None
    return draws


def _kept(shape: Sequence[int], share: float) -> Tensor:
    """True with this probability, in (0, 1]."""
    return _now().numbers(shape) <= max(round(share * 2**32), 1) - 2**31 - 1


def _uniform(like: Tensor) -> Tensor:
    """In [0, 1), of 24 bits, so that float32 and float64 hold the same."""
    return ((_now().numbers(like.shape) >> 8) & (2**24 - 1)).to(like.dtype) * 2.0**-24


def _exponential(like: Tensor) -> Tensor:
    return -torch.log1p(-_uniform(like).clamp(min=2.0**-25))  # 0 has no logarithm


def _normal(like: Tensor) -> Tensor:
    """Box and Muller's; none is beyond 5.8."""
    return (2 * _exponential(like)).sqrt() * (2 * math.pi * _uniform(like)).cos()


def _bernoulli(like: Tensor, p: float | Tensor | None) -> Tensor:
    """1 with probability p, or with those that `like` holds."""
    p = like if p is None else p
    if isinstance(p, Tensor):
        return (_uniform(like) < p).to(like.dtype)
    if not 0 <= p <= 1:
        raise SettingError(f"`p` must be in [0, 1]; got {p}. Give a probability.")
    return _kept(like.shape, p).to(like.dtype) if p else torch.zeros_like(like)


def _dropout(function: Any, features: bool = False, alpha: bool = False, in_place: bool = False) -> Any:
    """torch's dropout of entries, or of features (rows, channels, ...), to 0 or, by `alpha`, to SELU's lowest value.

    Klambauer, Unterthiner, Mayr, Hochreiter. Self-Normalizing Neural Networks. NeurIPS 2017.
    """

    def dropped(input: Tensor, p: float, train: bool) -> Tensor:  # named as torch names them
        if not train or not 0 < p <= 1 or not is_on():
            return function(input, p, train)  # type: ignore[no-any-return]
        shape = (*input.shape[:2], *[1] * (input.dim() - 2)) if features else input.shape
        noise = _kept(shape, 1 - p).to(input.dtype) if p < 1 else input.new_zeros(shape)
        shift: Tensor | float = 0.0
        if alpha and p < 1:
            lowest = 1.7580993408473766
            scale = ((lowest**2 * p + 1) * (1 - p)) ** -0.5
            shift = (noise - 1 + p) * (lowest * scale)
        else:
            scale = 1 / (1 - p) if p < 1 else 1.0
        noise = noise * scale
        masked = input.mul_(noise) if in_place else input * noise
        return masked.add_(shift) if alpha else masked

    return dropped


def _rrelu(function: Any, in_place: bool) -> Any:
    def rectified(input: Tensor, lower: float, upper: float, training: bool, generator: Any = None) -> Tensor:
        if not training or not is_on() or generator is not None:
            return function(input, lower, upper, training, generator)  # type: ignore[no-any-return]
        slope = torch.where(input < 0, lower + (upper - lower) * _uniform(input), 1)
        return input.mul_(slope) if in_place else input * slope

    return rectified


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """torch's attention, whose fused kernels take no masks of dropout: in plain operations where there are some."""
    if not dropout_p or not is_on():
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if enable_gqa:
        key, value = (part.repeat_interleave(query.shape[-3] // part.shape[-3], -3) for part in (key, value))
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        scores = scores.masked_fill(~scores.new_ones(scores.shape[-2:], dtype=torch.bool).tril(), -torch.inf)
    if attn_mask is not None:
        masked = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if masked else scores + attn_mask
    blind = (scores == -torch.inf).all(-1, keepdim=True)  # what may attend to nothing gets zeros, as in torch
    weights = torch.softmax(scores.masked_fill(blind, 0), -1).masked_fill(blind, 0)
    return _dropout(None)(weights, dropout_p, True) @ value  # type: ignore[no-any-return]


def _made(function: Any, empty: Any, draw: Callable[[Tensor], Tensor]) -> Any:
    """A function that makes a random tensor of a shape, or like another one."""

    def made(*given: Any, **how: Any) -> Tensor:
        if not is_on() or how.get("generator") is not None:
            return function(*given, **how)  # type: ignore[no-any-return]
        return draw(empty(*given, **{name: value for name, value in how.items() if name != "generator"}))

    return made


def _filled(function: Any, draw: Callable[..., Tensor], defaults: dict[str, Any], in_place: bool = True) -> Any:
    """A method that fills a tensor at random: draw(tensor, *options), whose defaults are given."""

    def filled(tensor: Tensor, *given: Any, generator: Any = None, **named: Any) -> Tensor:
        if not is_on() or generator is not None or not named.keys() <= defaults.keys():
            return function(tensor, *given, generator=generator, **named)  # type: ignore[no-any-return]
        chosen = defaults | dict(zip(defaults, given, strict=False)) | named
        drawn = draw(tensor, *chosen.values())
        return tensor.copy_(drawn) if in_place else drawn

    return filled


def _empty(*given: Any, **how: Any) -> Tensor:
    """Memory to be filled at random, of every node's own."""
    memory, draws = torch.empty(*given, **how), _DRAWS.get()
    return memory if draws is None or draws.key is None else memory.zero_() + (draws.key * 0).to(memory.dtype)


REPLACED = {
    torch.dropout: _dropout(torch.dropout),
    torch.dropout_: _dropout(torch.dropout_, in_place=True),
    torch.feature_dropout: _dropout(torch.feature_dropout, features=True),
    torch.feature_dropout_: _dropout(torch.feature_dropout_, features=True, in_place=True),
    torch.alpha_dropout: _dropout(torch.alpha_dropout, alpha=True),
    torch.alpha_dropout_: _dropout(torch.alpha_dropout_, alpha=True, in_place=True),
    torch.feature_alpha_dropout: _dropout(torch.feature_alpha_dropout, features=True, alpha=True),
    torch.feature_alpha_dropout_: _dropout(torch.feature_alpha_dropout_, features=True, alpha=True, in_place=True),
    torch.rrelu: _rrelu(torch.rrelu, in_place=False),
    torch.rrelu_: _rrelu(torch.rrelu_, in_place=True),
    F.scaled_dot_product_attention: _attention,
    torch.empty: _empty,
    torch.rand: _made(torch.rand, torch.empty, _uniform),
    torch.randn: _made(torch.randn, torch.empty, _normal),
    torch.rand_like: _made(torch.rand_like, torch.empty_like, _uniform),
    torch.randn_like: _made(torch.randn_like, torch.empty_like, _normal),
    torch.bernoulli: _filled(torch.bernoulli, _bernoulli, {"p": None}, in_place=False),
    Tensor.bernoulli: _filled(Tensor.bernoulli, _bernoulli, {"p": None}, in_place=False),
    Tensor.bernoulli_: _filled(Tensor.bernoulli_, _bernoulli, {"p": 0.5}),
    Tensor.uniform_: _filled(Tensor.uniform_, lambda x, a, b: a + (b - a) * _uniform(x), {"from": 0.0, "to": 1.0}),
    Tensor.normal_: _filled(Tensor.normal_, lambda x, mean, std: mean + std * _normal(x), {"mean": 0.0, "std": 1.0}),
    Tensor.exponential_: _filled(Tensor.exponential_, lambda x, rate: _exponential(x) / rate, {"lambd": 1.0}),
}
