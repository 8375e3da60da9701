"""quantize: signs, and magnitudes on a uniform grid between the least and the largest.

As the compressor of CP-NTK-FL (Yue et al., ICML 2022, arXiv 2110.03681), which the authors' code keeps but never runs.
"""

import torch

from fedtangent.channels._chain import Channel, Coded, Size


def quantize(levels: int) -> Channel:
    """A tensor's magnitudes, rounded to a uniform grid from the least to the largest of those sent; signs are kept.

    Let r be the distance of the two. Counted with their signs the `levels` lie, where they are

    * even (mid-rise), in the middle of levels / 2 cells of width 2 r / levels;
    * odd (mid-tread), at (levels + 1) / 2 points 2 r / (levels - 1) apart, so that both ends, and with them zeros, and
      gates that are 0 or 1, come out as they went in. The authors' points are 2 r / levels apart and miss the largest.

    No magnitude is off by more than half a distance. An entry takes log2(levels) bits, rounded up; the two ends travel
    as they are. Where all magnitudes are equal nothing is lost. A zero counts as positive.

    Args:
        levels: From 2 to 65536.

    Raises:
        ValueError: Others.
    """
    if not 2 <= levels <= 2**16:
        raise ValueError(f"`levels` must be from 2 to 65536; got {levels}. Use 16 for four bits an entry.")
    odd, parts = levels % 2 == 1, levels // 2

    def code(x: Coded) -> Coded:
        magnitude = x.values.abs()
        least = torch.where(x.sent, magnitude, torch.inf).min()
        r = torch.where(x.sent, magnitude, -torch.inf).max() - least
        place = (magnitude - least) / torch.where(r > 0, r, 1) * parts
        if odd:
            grid = (place + 0.5).floor().clamp(0, parts) / parts
        else:
            grid = (place.floor().clamp(0, parts - 1) + 0.5) / parts
        return Coded(torch.where(x.values < 0, -1, 1) * (least + r * grid), x.sent)

    def size(x: Size) -> Size:
        return x._replace(bits=(levels - 1).bit_length(), beside=x.beside + 2 * x.number)

    return Channel(code, size)
