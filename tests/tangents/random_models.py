"""Small random models, put together from parts that are hard to follow; each treats every sample on its own."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

WIDTH, OUTPUTS = 5, 3


class _Flip(torch.autograd.Function):
    """Its own derivative, in the style that transforms of torch.func do not take."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: object, g: Tensor) -> Tensor:
        return -3 * g


def _written(h: Tensor, write: Callable[[Tensor], object]) -> Tensor:
    h = h.clone()
    write(h)
    return h


def _setitem(h: Tensor, place: object, value: Tensor | float) -> Tensor:
    h = h.clone()
    h[place] = value
    return h


def _in_view(h: Tensor, p: Tensor) -> Tensor:
    h = h.clone()
    view = h[:, 1:3]
    view *= p[:2]
    return h


def _loop(part: "Parts", h: Tensor) -> Tensor:
    rows = []
    for row in h:
        for _ in range(1 + int(row.detach().sum() > 0)):
            row = torch.tanh(part.linear(row))
        rows.append(row)
    return torch.stack(rows)


def _experts(part: "Parts", h: Tensor) -> Tensor:
    out = torch.zeros_like(h)
    chosen = h.detach()[:, 0] > 0
    for expert, rows in ((part.linear, chosen), (part.other, ~chosen)):
        where = torch.where(rows)[0]
        if len(where):
            out = out.index_add(0, where, expert(h[where]))
    return out


def _solved(part: "Parts", h: Tensor) -> Tensor:
    z = torch.zeros_like(h)
    with torch.no_grad():
        for _ in range(3):
            z = torch.tanh(0.3 * part.linear(z) + h)
    return torch.tanh(0.3 * part.linear(z) + h)


def _inner_gradient(part: "Parts", h: Tensor) -> Tensor:
    return torch.func.vmap(torch.func.grad(lambda z: part.linear(z).tanh().sum()))(h)


class Parts(nn.Module):
    """The parameters of one step, which it uses or not; `shared` are another step's."""

    def __init__(self, shared: nn.Linear | None = None) -> None:
        super().__init__()
        self.linear, self.other = shared or nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.p, self.q = nn.Parameter(torch.randn(WIDTH)), nn.Parameter(torch.randn(WIDTH, WIDTH))


STEPS: dict[str, Callable[[Parts, Tensor], Tensor]] = {
    "linear": lambda s, h: s.linear(h),
    "relu in place": lambda s, h: F.relu(s.linear(h), inplace=True),
    "tanh": lambda s, h: torch.tanh(h),
    "h *= p": lambda s, h: _written(h, lambda h: h.mul_(s.p)),
    "h += p": lambda s, h: _written(h, lambda h: h.add_(s.p)),
    "h /= number": lambda s, h: _written(s.linear(h), lambda h: h.div_(1.7)),
    "clamp_": lambda s, h: _written(s.linear(h), lambda h: h.clamp_(-0.5, 1.5)),
    "cumsum_": lambda s, h: _written(s.linear(h), lambda h: h.cumsum_(1)),
    "masked_fill_": lambda s, h: _written(s.linear(h), lambda h: h.masked_fill_(h > 0.5, 0.2)),
    "softmax in place": lambda s, h: s.linear(h).sub_(0.3).exp_(),
    "h[:, 0] = 0": lambda s, h: _setitem(s.linear(h), (slice(None), 0), 0.0),
    "h[:, 1] = p": lambda s, h: _setitem(h, (slice(None), 1), s.p[1]),
    "h[h > 1] = p": lambda s, h: torch.where(h > 1, s.p, h),
    "p in a view": lambda s, h: _in_view(h, s.p),
    "matmul": lambda s, h: h @ s.q,
    "matmul transposed": lambda s, h: h @ s.q.T + s.p,
    "einsum": lambda s, h: torch.einsum("ni,io->no", h, s.q),
    "addmm": lambda s, h: torch.addmm(s.p, h, s.q),
    "p twice": lambda s, h: h * s.p + torch.sin(s.p),
    "p in and out of place": lambda s, h: _written(h * s.p, lambda h: h.add_(s.p)),
    "layer norm": lambda s, h: F.layer_norm(h, (WIDTH,), s.p),
    "scaled by its norm": lambda s, h: h / (1 + h.norm(dim=1, keepdim=True)) * s.p,
    "gate": lambda s, h: s.linear(h) * torch.sigmoid(s.other(h)),
    "softmax": lambda s, h: torch.softmax(s.linear(h), 1),
    "spectrum": lambda s, h: torch.fft.irfft(torch.fft.rfft(h) * torch.fft.rfft(s.p), n=WIDTH),
    "complex weight": lambda s, h: (h * torch.complex(s.p, s.q[0])).abs(),
    "complex middle": lambda s, h: s.linear(torch.fft.fft(s.linear(h)).real),
    "branch": lambda s, h: torch.stack([s.linear(r) if r.detach()[0] > 0 else r * s.p for r in h]),
    "number of the sample": lambda s, h: torch.stack([r * s.p[int(r.detach()[0] > 0)] for r in h]),
    "chosen row": lambda s, h: h + s.q[h.detach().argmax(1)],
    "loop": _loop,
    "experts": _experts,
    "no_grad": _solved,
    "detached": lambda s, h: s.linear(h).detach() * s.p + h,
    "straight through": lambda s, h: h + (torch.round(s.linear(h)) - h).detach(),
    "inner vmap": lambda s, h: torch.func.vmap(lambda row: torch.tanh(h @ row))(s.q).T,
    "inner gradient": _inner_gradient,
    "checkpoint": lambda s, h: checkpoint(s.linear, h, use_reentrant=False),
    "own derivative": lambda s, h: _Flip.apply(s.linear(h)),
    "frames on the batch axis": lambda s, h: s.linear(h.repeat_interleave(2, 0)).unflatten(0, (len(h), 2)).mean(1),
    "derived weight": lambda s, h: F.linear(h, torch.tril(s.q) * 2, s.p.abs()),
    "convolution": lambda s, h: F.conv1d(h[:, None], s.p[None, None, :3], padding=1)[:, 0],
}


class RandomModel(nn.Module):
    """Steps one after the other, then a head, then perhaps something in place on its result.

    Args:
        steps: Names of STEPS.
        tied: Whether all steps share their first linear map.
        end: What is done to the head's result.
        seed: Of the parameters.
    """

    def __init__(self, steps: list[str], tied: bool, end: str, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            shared = nn.Linear(WIDTH, WIDTH) if tied else None
            self.parts = nn.ModuleList([Parts(shared) for _ in steps])
            self.head, self.scale = nn.Linear(WIDTH, OUTPUTS), nn.Parameter(torch.randn(OUTPUTS))
            self.steps, self.end = steps, end
            self.double()

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for name, part in zip(self.steps, self.parts, strict=True):
            h = STEPS[name](part, h)
        return ENDS[self.end](self, self.head(h))


ENDS: dict[str, Callable[[RandomModel, Tensor], Tensor]] = {
    "as it is": lambda s, f: f,
    "relu in place": lambda s, f: F.relu(f, inplace=True),
    "half": lambda s, f: f.mul_(0.5),
    "scaled": lambda s, f: f.mul_(s.scale),
    "shifted": lambda s, f: f.add_(s.scale),
    "one is zero": lambda s, f: _set_first(f),
    "cumulated": lambda s, f: f.cumsum_(1),
    "looked at": lambda s, f: _looked_at(f),
    "softmax": lambda s, f: torch.softmax(f, 1),
}


def _looked_at(f: Tensor) -> Tensor:
    assert f.detach().sum() is not None
    return f


def _set_first(f: Tensor) -> Tensor:
    view = f[:, 0]
    view.zero_()
    return f


def by_autograd(model: nn.Module, x: Tensor) -> Tensor:
    """J (n, C, P), sample by sample and output by output, zero for what is not used."""
    w = [p for p in model.parameters() if p.requires_grad]

    def rows(row: Tensor) -> Tensor:
        f = model(row[None].clone())[0]
        found = [torch.autograd.grad(one, w, retain_graph=True, allow_unused=True) for one in f]
        return torch.stack(
            [
                torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(w, each, strict=True)])
                for each in found
            ]
        )

    return torch.stack([rows(row) for row in x])
