"""topk: the entries of the largest magnitude, and where they are.

Aji, Heafield. Sparse Communication for Distributed Gradient Descent. EMNLP 2017. arXiv 1704.05021.
"""

import math

import torch

from fedtangent.channels._chain import Channel, Coded, Size


def topk(share: float) -> Channel:
    """The `share` of a tensor's entries whose magnitude is largest, one at least.

    Of equals those go first that come first in their rows (along the first axis), so that no row pays for its place.
    Beside the values travel their positions, as a bit for every entry of the tensor or as packed indices, whichever is
    fewer bytes; nothing where all are sent. Costs two sorts of the tensor.

    Args:
        share: In (0, 1].

    Raises:
        ValueError: Another share.
    """
    if not 0 < share <= 1:
        raise ValueError(f"`share` must be in (0, 1]; got {share}. Use 1 to send every entry.")

    def code(x: Coded) -> Coded:
        magnitude = torch.where(x.sent, x.values.abs(), -1)
        columns = magnitude.reshape(len(magnitude), -1).T
        rank = columns.flatten().argsort(descending=True, stable=True).argsort().reshape(columns.shape).T
        # 0.29 of 100 is 28.99...
        kept = (share * x.sent.sum().double() + 1e-9).floor().clamp(min=1)
        return Coded(x.values, x.sent & (rank < kept).reshape(magnitude.shape))

    def size(x: Size) -> Size:
        kept = max(int(share * x.sent + 1e-9), 1)
        index = (x.entries - 1).bit_length()  # bits that tell entries apart
        positions = min(math.ceil(x.entries / 8), math.ceil(kept * index / 8)) if kept < x.sent else 0
        return x._replace(sent=kept, beside=x.beside + positions)

    return Channel(code, size)
