"""transformer: a text classifier of three encoder layers on token ids, as FedPart trains it.

Wang et al. Why Go Full? Elevating Federated Learning Through Partial Network Updates. NeurIPS 2024. arXiv 2410.11559.
The layers are those of Vaswani et al. Attention Is All You Need. NeurIPS 2017. arXiv 1706.03762, normalised after the
sum; the paper's dropout of 0.1 is an option, since methods in the tangent space take none.
"""

import math
from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor, nn

from fedtangent.errors import SettingError
from fedtangent.models._dense import features
from fedtangent.models._draw import drawn


def transformer(
    inputs: tuple[int, ...],
    outputs: int,
    rng: np.random.Generator,
    *,
    ids: int = 30_333,
    width: int = 200,
    heads: int = 2,
    layers: int = 3,
    feedforward: int = 200,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Embedding with sinusoidal positions, encoder layers, and a classifier of the last real token's vector.

    Rows are token ids (rows, length), as whole numbers of any type; id 0 is padding at the end, which nothing attends
    to. 6,793,605 parameters for five classes of FedPart's 30,333 ids. Its parts, in the order of a forward pass:
    `embedding`, then of each layer `attention` (four projections) and `feed` (two dense layers and both
    normalisations), then `classifier`. A pass costs width (4 width + 2 feedforward + 2 length) multiply-adds a layer
    and token.

    Args:
        inputs: The length, (length,).
        outputs: The number of classes or targets.
        rng: Draws the weights.
        ids: How many ids there are, padding and unknown among them.
        width: Of a token's vector, a multiple of twice the heads.
        heads: How many attention heads a layer has.
        layers: How many encoder layers.
        feedforward: Width of the hidden layer after attention.
        dropout: Share of zeros in training: of embeddings, attention weights, what attention and the dense layers add,
            and the hidden layer.
    """
    features(inputs, outputs)
    if len(inputs) != 1:
        raise SettingError(
            f"`inputs` must be (length,) for rows of token ids; got {inputs}. "
            "Use a data set of token ids, such as agnews."
        )
    for name, value in (("ids", ids), ("heads", heads), ("layers", layers), ("feedforward", feedforward)):
        if value < 1:
            raise SettingError(f"`{name}` must be at least 1; got {value}. Give a positive number.")
    if width < 1 or width % (2 * heads):
        raise SettingError(f"`width` must be a multiple of twice the heads, {2 * heads}; got {width}. Use another.")
    if not 0 <= dropout < 1:
        raise SettingError(f"`dropout` must be in [0, 1); got {dropout}. Use 0.1, or 0 for none.")

    def build() -> nn.Sequential:
        blocks = [(f"layer{k}", _Layer(width, heads, feedforward, dropout)) for k in range(layers)]
        ends = ("embedding", _Embedding(ids, width, dropout)), ("classifier", nn.Linear(width, outputs))
        return _Classifier(OrderedDict([ends[0], *blocks, ends[1]]))

    return drawn(build, rng, gain=1.0)


class _Classifier(nn.Sequential):
    """Embedding, layers and classifier, the mask of real tokens beside them."""

    def forward(self, x: Tensor) -> Tensor:
        """The outputs (rows, outputs) of ids (rows, length)."""
        embedding, *layers, classifier = self
        at = torch.arange(x.shape[1], device=x.device)
        real = (x > 0) | (at == 0)  # a row without tokens attends to its first padding, so that nothing is divided by 0
        h = embedding(x, at)
        for layer in layers:
            h = layer(h, real)
        last = torch.where(real, at, 0).amax(1)
        read: Tensor = classifier(h.gather(1, last[:, None, None].expand(-1, 1, h.shape[2]))[:, 0])
        return read


class _Embedding(nn.Module):
    """E[id] + position, E ~ N(0, 1): both of about the same size."""

    def __init__(self, ids: int, width: int, dropout: float) -> None:
        super().__init__()
        self.tokens, self.drop = nn.Embedding(ids, width), _drop(dropout)

    def forward(self, x: Tensor, at: Tensor) -> Tensor:
        """Vectors (rows, length, width)."""
        try:
            found: Tensor = self.tokens(x.long())
        except IndexError as error:
            raise SettingError(
                f"`ids` must be above every token id of the data; got {self.tokens.num_embeddings}. Count the padding "
                "and the unknown word too."
            ) from error
        placed: Tensor = self.drop(found + positions(at, found))
        return placed


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.attention, self.feed = _Attention(width, heads, dropout), _Feed(width, feedforward, dropout)

    def forward(self, h: Tensor, real: Tensor) -> Tensor:
        """norm(z + feedforward(z)) of z = norm(h + attention(h))."""
        found: Tensor = self.feed(h, self.attention(h, real))
        return found


class _Attention(nn.Module):
    """softmax(q k^T / sqrt(width / heads)) v of every head, mixed; in plain operations, which vmap and jvp can take."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.sides, self.mix = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.drop = _drop(dropout)

    def forward(self, h: Tensor, real: Tensor) -> Tensor:
        """(rows, length, width), from the real tokens alone."""
        rows, length, width = h.shape
        q, k, v = self.sides(h).reshape(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = (q @ k.mT) * math.sqrt(self.heads / width)
        scores = torch.where(real[:, None, None, :], scores, torch.finfo(scores.dtype).min)
        mixed = (self.drop(torch.softmax(scores, -1)) @ v).transpose(1, 2).reshape(rows, length, width)
        found: Tensor = self.mix(mixed)
        return found


class _Feed(nn.Module):
    def __init__(self, width: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.drop = _drop(dropout)
        self.norm1, self.up = nn.LayerNorm(width), nn.Linear(width, feedforward)
        self.relu, self.down, self.norm2 = nn.ReLU(), nn.Linear(feedforward, width), nn.LayerNorm(width)

    def forward(self, h: Tensor, attended: Tensor) -> Tensor:
        z = self.norm1(h + self.drop(attended))
        found: Tensor = self.norm2(z + self.drop(self.down(self.drop(self.relu(self.up(z))))))
        return found


def _drop(share: float) -> nn.Module:
    return nn.Dropout(share) if share else nn.Identity()


def positions(at: Tensor, like: Tensor) -> Tensor:
    """sin(at / 10000^(2 i / width)) in column 2 i and its cosine in the next one, (length, width) of `like`'s type."""
    width = like.shape[-1]
    angle = at[:, None] * 10_000 ** (-torch.arange(0, width, 2, device=at.device, dtype=like.dtype) / width)
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)
