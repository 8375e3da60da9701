"""topk: the entries of the largest magnitude, and where they are.

Aji, Heafield. Sparse Communication for Distributed Gradient Descent. EMNLP 2017. arXiv 1704.05021. The unbiased kind:
Wangni, Wang, Liu, Zhang. Gradient Sparsification for Communication-Efficient Distributed Optimization. NeurIPS 2018.
"""

import math
from typing import Literal

import torch

from fedtangent.errors import SettingError
from fedtangent.federation.coding import Channel, Coded, Draw, Size


def topk(*, share: float = 0.1, entries: Literal["largest", "random"] = "largest") -> Channel:
    """The `share` of a tensor's entries whose magnitude is largest, one at least; or as many drawn ones.

    Of equals those go first that come first in their rows (along the first axis), so that no row pays for its place.
    Beside the values travel their positions, as a bit for every entry of the tensor or as packed indices, whichever is
    fewer bytes; nothing where all are sent. Costs two sorts of the tensor.

    Args:
        share: Of the entries that are sent, in (0, 1].
        entries: The `largest`; or `random` ones, scaled such that the tensor is right on average, whose positions
            travel as the four bytes that they are drawn from.

    Raises:
        ValueError: Another share.
    """
    if not 0 < share <= 1:
        raise SettingError(f"`share` must be in (0, 1]; got {share}. Use 1 to send every entry.")
    if entries not in ("largest", "random"):
        raise SettingError(f"`entries` must be 'largest' or 'random'; got {entries!r}. Choose one of the two.")

    def code(x: Coded, draw: Draw) -> Coded:
        drawn = entries == "random"
        key = torch.from_numpy(draw().random(tuple(x.values.shape))).to(x.values.device) if drawn else x.values.abs()
        key = torch.where(x.sent, key, -1)
        columns = key.reshape(len(key), -1).T
        rank = columns.flatten().argsort(descending=True, stable=True).argsort().reshape(columns.shape).T
        # 0.29 of 100 is 28.99...
        kept = (share * x.sent.sum().double() + 1e-9).floor().clamp(min=1)
        values = x.values * (x.sent.sum() / kept).to(x.values.dtype) if drawn else x.values
        return Coded(values, x.sent & (rank < kept).reshape(key.shape))

    def size(x: Size) -> Size:
        kept = max(int(share * x.sent + 1e-9), 1)
        index = (x.entries - 1).bit_length()  # bits that tell entries apart
        positions = 4 if entries == "random" else min(math.ceil(x.entries / 8), math.ceil(kept * index / 8))
        return x._replace(sent=kept, beside=x.beside + (positions if kept < x.sent else 0))

    return Channel(code, size)
