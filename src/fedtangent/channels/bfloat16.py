"""bfloat16: half of a float32's bytes, with its range and three digits.

Kalamkar et al. A Study of BFLOAT16 for Deep Learning Training. 2019. arXiv 1905.12322.
"""

import torch

from fedtangent.federation.coding import Channel, Coded, Draw, Size


def bfloat16() -> Channel:
    """Every entry rounded to the nearest bfloat16, in two bytes."""

    def code(x: Coded, draw: Draw) -> Coded:
        return Coded(x.values.to(torch.bfloat16).to(x.values.dtype), x.sent)

    def size(x: Size) -> Size:
        return x._replace(bits=min(x.bits, 16))

    return Channel(code, size)
