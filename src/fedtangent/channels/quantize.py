"""quantize: signs, and magnitudes on a uniform grid between the least and the largest.

As the compressor of CP-NTK-FL (Yue et al., ICML 2022, arXiv 2110.03681), which the authors' code keeps but never runs;
the unbiased kind as QSGD (Alistarh, Grubic, Li, Tomioka, Vojnovic. NeurIPS 2017. arXiv 1610.02132), on that grid.
"""

from typing import Literal

import torch

from fedtangent.errors import SettingError
from fedtangent.federation.coding import Channel, Coded, Draw, Size


def quantize(*, levels: int = 256, rounding: Literal["nearest", "stochastic"] = "nearest") -> Channel:
    """A tensor's magnitudes, rounded to a uniform grid from the least to the largest of those sent; signs are kept.

    Let r be the distance of the two. Counted with their signs the `levels` lie, where they are

    * even (mid-rise), in the middle of levels / 2 cells of width 2 r / levels;
    * odd (mid-tread), at (levels + 1) / 2 points 2 r / (levels - 1) apart, so that both ends, and with them zeros, and
      gates that are 0 or 1, come out as they went in. The authors' points are 2 r / levels apart and miss the largest.

    No magnitude is off by more than half a distance, of stochastic rounding by a whole one. An entry takes log2(levels)
    bits, rounded up; the two ends travel as they are. Where all magnitudes are equal nothing is lost. A zero counts as
    positive.

    Args:
        levels: Points of the grid, from 2 to 65536.
        rounding: To the `nearest` point; or `stochastic`, to one of the two around a magnitude, such that it is right
            on average: with an odd number of levels, whose grid reaches both ends, and four bytes of random numbers.

    Raises:
        ValueError: Other levels, or an even number of them for stochastic rounding.
    """
    if not 2 <= levels <= 2**16:
        raise SettingError(f"`levels` must be from 2 to 65536; got {levels}. Use 16 for four bits an entry.")
    if rounding not in ("nearest", "stochastic"):
        raise SettingError(f"`rounding` must be 'nearest' or 'stochastic'; got {rounding!r}. Choose one of the two.")
    odd, parts = levels % 2 == 1, levels // 2
    if rounding == "stochastic" and not odd:
        raise SettingError(
            f"`levels` must be odd for stochastic rounding, whose grid holds both ends; got {levels}. Use {levels - 1}."
        )

    def code(x: Coded, draw: Draw) -> Coded:
        magnitude = x.values.abs()
        least = torch.where(x.sent, magnitude, torch.inf).min()
        r = torch.where(x.sent, magnitude, -torch.inf).max() - least
        place = (magnitude - least) / torch.where(r > 0, r, 1) * parts
        if not odd:
            grid = (place.floor().clamp(0, parts - 1) + 0.5) / parts
        elif rounding == "nearest":
            grid = (place + 0.5).floor().clamp(0, parts) / parts
        else:
            chance = torch.from_numpy(draw().random(tuple(place.shape))).to(place)
            grid = (place + chance).floor().clamp(0, parts) / parts
        return Coded(torch.where(x.values < 0, -1, 1) * (least + r * grid), x.sent)

    def size(x: Size) -> Size:
        return x._replace(bits=(levels - 1).bit_length(), beside=x.beside + 2 * x.number)

    return Channel(code, size)
