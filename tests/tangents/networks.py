"""Small networks in general position, of every kind of layer, and the explicit Jacobian that everything must equal."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedtangent.tangents.capture.functional import plain

INPUTS, OUTPUTS, SAMPLES = 7, 3, 5


class Mixed(nn.Module):
    """No Sequential, so that nothing is known of what follows a layer; a softmax mixes its units."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper = nn.Linear(INPUTS, 4), nn.Linear(4, OUTPUTS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.upper(torch.softmax(self.lower(x), 1)))


class Skip(nn.Module):
    """What the gated layer gives goes past the last one too."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper = nn.Linear(INPUTS, OUTPUTS), nn.Linear(OUTPUTS, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        z = self.lower(x)
        return self.upper(torch.tanh(z)) + z


class Text(nn.Module):
    """Tokens, positions, an encoder and a head, with the batch axis first or second; the padding row is not trained."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.words, self.places = nn.Embedding(11, 8, padding_idx=0), nn.Parameter(torch.randn(6, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, activation="gelu", batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        z = self.words(x) + self.places
        z = self.encoder(z) if self.batch_first else self.encoder(z.transpose(0, 1)).transpose(0, 1)
        return self.head(z.mean(1))


class Attention(nn.Module):
    """Attention to a learnt memory with masks and weights, and learnt keys and values beside it."""

    def __init__(self, learnt: bool) -> None:
        super().__init__()
        self.memory = nn.Parameter(torch.randn(4, 6))
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True, add_bias_kv=learnt)
        self.head = nn.Linear(6, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        memory = self.memory.expand(len(x), -1, -1)
        other, _ = self.attention(x, memory, memory)
        own, weights = self.attention(x, x, x, attn_mask=torch.ones(x.shape[1], x.shape[1]).triu(1).bool())
        return self.head((other + own + weights.mean((1, 2))[:, None, None]).sum(1))


class Tied(nn.Module):
    """One linear map used twice, one three times in two forms, and a scale of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper = nn.Linear(INPUTS, INPUTS), nn.Linear(INPUTS, OUTPUTS, bias=False)
        self.size = nn.Parameter(torch.randn(INPUTS))

    def forward(self, x: Tensor) -> Tensor:
        z = self.upper(torch.tanh(self.lower(torch.tanh(self.lower(x)))) * self.size)
        return z @ self.upper.weight @ self.upper.weight.T


class Language(nn.Module):
    """A head tied to the embedding, and an embedding used for two things."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(OUTPUTS, 5)
        self.head = nn.Linear(5, OUTPUTS)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.words(x).sum(1) * self.words(x.flip(1)).mean(1)))


class Flat(nn.Module):
    """Parameters that go through functions which need not do anything."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(INPUTS)), nn.Parameter(torch.randn(2 * INPUTS))

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.cat([self.a.flatten(), self.b.contiguous()]).view(3, INPUTS)
        return nn.functional.linear(x, rows.to(x.dtype)) * self.a.to(x.dtype)[:3]


class Warm(nn.Module):
    """A parameter that is a single number, without axes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.temperature = nn.Linear(INPUTS, OUTPUTS), nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).tanh() / self.temperature


class Recurrent(nn.Module):
    """A layer that vmap cannot run."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper = nn.LSTM(4, 3, batch_first=True), nn.Linear(3, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        return self.upper(self.lower(x)[0][:, -1])


class Masked(nn.Module):
    """A derived weight, and frames of a film that lie on the batch axis."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 2, 3, 3))
        self.register_buffer("mask", torch.rand(4, 2, 3, 3))
        self.upper, self.head = nn.Conv2d(4, 2, 3, groups=2), nn.Linear(2, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        frames = nn.functional.conv2d(x.flatten(0, 1), self.weight * self.mask).tanh()
        return self.head(self.upper(frames).unflatten(0, x.shape[:2]).mean((1, 3, 4)))


def networks() -> dict[str, nn.Module]:
    """Dense ones."""
    torch.manual_seed(3)
    found = {
        "one layer": nn.Linear(INPUTS, OUTPUTS),
        "gated": nn.Sequential(nn.Linear(INPUTS, 6), nn.ReLU(), nn.Linear(6, OUTPUTS)),
        "no bias": nn.Sequential(nn.Linear(INPUTS, 6, bias=False), nn.Tanh(), nn.Linear(6, OUTPUTS, bias=False)),
        "deep": nn.Sequential(
            nn.Sequential(nn.Linear(INPUTS, 6), nn.GELU()),
            nn.Linear(6, 4),
            nn.ReLU(inplace=True),
            nn.Linear(4, OUTPUTS),
        ),
        "one output": nn.Sequential(nn.Linear(INPUTS, 6), nn.ELU(), nn.Linear(6, 4), nn.SiLU(), nn.Linear(4, 1)),
        "layer norm between": nn.Sequential(
            nn.Linear(INPUTS, 6), nn.LayerNorm(6, elementwise_affine=False), nn.ReLU(), nn.Linear(6, OUTPUTS)
        ),
        "softmax at the end": nn.Sequential(nn.Linear(INPUTS, 6), nn.ReLU(), nn.Linear(6, OUTPUTS), nn.Softmax(1)),
        "wide": nn.Sequential(nn.Linear(INPUTS, 60), nn.ReLU(), nn.Linear(60, OUTPUTS)),
        "own module": Mixed(),
        "skip": Skip(),
        "tied": Tied(),
        "flat": Flat(),
        "temperature": Warm(),
        "scales": nn.Sequential(nn.Linear(INPUTS, 4), nn.RMSNorm(4), nn.PReLU(), nn.Linear(4, 6), nn.LayerNorm(6)),
    }
    return {name: model.double() for name, model in found.items()}


class Example(NamedTuple):
    """A model and the shape of its samples; `tokens` says that these are integers below it."""

    model: nn.Module
    shape: tuple[int, ...]
    tokens: int = 0

    def samples(self, count: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        if self.tokens:
            return torch.randint(0, self.tokens, (count, *self.shape), generator=generator)
        return torch.randn(count, *self.shape, dtype=torch.float64, generator=generator)


def layers() -> dict[str, Example]:
    """Of every other kind of layer."""
    torch.manual_seed(4)
    two_d = nn.Sequential(
        nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2),
        nn.GroupNorm(2, 4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, padding="same", padding_mode="reflect", bias=False),
        nn.BatchNorm2d(6),
        nn.Flatten(),
        nn.Linear(96, OUTPUTS),
    )
    two_d(torch.randn(9, 2, 7, 6))  # so that the statistics are not those of the start
    one_d = nn.Sequential(
        nn.Conv1d(2, 4, 4, padding="same", dilation=2),
        nn.InstanceNorm1d(4, affine=True),
        nn.Tanh(),
        nn.ConvTranspose1d(4, OUTPUTS, 2),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
    )
    tokens = nn.Sequential(
        nn.Unflatten(1, (3, INPUTS)), nn.Linear(INPUTS, 4), nn.Tanh(), nn.Flatten(), nn.Linear(12, OUTPUTS)
    )
    found = {
        "convolutions": Example(two_d, (2, 7, 6)),
        "convolutions of sequences": Example(one_d, (2, 9)),
        "tokens": Example(tokens, (3 * INPUTS,)),
        "transformer": Example(Text(), (6,), 11),
        "transformer, batch second": Example(Text(batch_first=False), (6,), 11),
        "attention": Example(Attention(learnt=False), (5, 6)),
        "attention, learnt keys": Example(Attention(learnt=True), (5, 6)),
        "tied to the embedding": Example(Language(), (4,), OUTPUTS),
        "recurrent": Example(Recurrent(), (5, 4)),
        "derived weight": Example(Masked(), (3, 2, 6, 5)),
    }
    return {name: example._replace(model=example.model.double().eval()) for name, example in found.items()}


def everything() -> dict[str, Example]:
    """Dense networks and all others."""
    return {name: Example(model, (INPUTS,)) for name, model in networks().items()} | layers()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters()}


def inputs(samples: int = SAMPLES, seed: int = 0) -> Tensor:
    return torch.randn(samples, INPUTS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def jacobian(model: nn.Module, x: Tensor) -> Tensor:
    """J (N, C, P), by the definition."""
    w = weights(model)

    def rows(row: Tensor) -> Tensor:
        by_weight = torch.func.jacrev(lambda w: torch.func.functional_call(model, w, (row[None],))[0])(w)
        return torch.cat([by_weight[name].reshape(len(by_weight[name]), -1) for name in w], 1)

    with plain():
        if any(isinstance(part, (nn.LSTM, nn.PReLU)) for part in model.modules()):  # vmap fails, or errs
            return torch.stack([_by_autograd(model, row) for row in x])
        return torch.func.vmap(rows)(x)


def _by_autograd(model: nn.Module, row: Tensor) -> Tensor:
    f = model(row[None])[0]
    grads = [torch.autograd.grad(one, list(model.parameters()), retain_graph=True) for one in f]
    return torch.stack([torch.cat([part.flatten() for part in each]) for each in grads])


def flat(w: dict[str, Tensor]) -> Tensor:
    """A tree of weights with a leading axis as a matrix, in the order of `jacobian`."""
    return torch.cat([part.reshape(len(part), -1) for part in w.values()], 1)


def literal(kind: str, j1: Tensor, j2: Tensor) -> Tensor:
    """The kernel of a kind from two Jacobians (n, C, P), by its definition."""
    full = torch.einsum("ncp,mdp->nmcd", j1, j2)
    own = full.diagonal(dim1=2, dim2=3)
    return {"full": full, "trace": own.mean(2), "diagonal": own}[kind]
