"""Whether several outputs may go back through a model together, as samples do; and whether it is a chain.

Torch maps a few functions wrongly: the rule of such a one, mapped twice over axes of one length, may mix the two axes
without a word.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from fedtangent import trees
from fedtangent.tangents.capture.chain import Chain, chain
from fedtangent.tangents.capture.factors import factors, forward_with_probes
from fedtangent.tangents.capture.functional import Weights, each, plain
from fedtangent.tangents.capture.layers import Tensors
from fedtangent.tangents.capture.samples import Samples
from fedtangent.tangents.capture.uses import WHOLE, Uses


def go_together(model: nn.Module, w: Weights, x: Samples, uses: Uses) -> bool:
    """Whether as many random cotangents as there are samples x give the same, mapped and one by one."""
    keys = [key for key in uses.by_name if key not in (uses.last, uses.gated, WHOLE)]
    if not keys:
        return True
    generator = torch.Generator().manual_seed(len(x))
    cotangents = torch.randn(len(x), len(x), uses.outputs, generator=generator, dtype=torch.float64, device="cpu")
    like = next(iter(w.values()))

    def one(x: Samples, cotangents: Tensor) -> tuple[dict[str, Tensors], dict[str, Tensors]]:
        zeros = {key: tuple(like.new_zeros(shape) for shape in uses.by_name[key].call.shapes) for key in keys}
        vjp = torch.func.vjp(lambda probes: forward_with_probes(model, w, x, uses, probes)[0], zeros)[1]
        mapped = each(lambda row: vjp(row)[0], cotangents)
        return mapped, trees.stack([vjp(row)[0] for row in cotangents])

    with plain():
        mapped, single = each(one, x, cotangents.to(like))
    pairs = list(zip(trees.leaves(mapped), trees.leaves(single), strict=True))
    if not trees.is_finite([single]):
        return True  # whoever computes with them says so
    most = max(float(right.norm()) for _, right in pairs)
    eps = torch.finfo(like.dtype).eps
    return all(float((left - right).norm()) <= eps**0.5 * most for left, right in pairs)


def tried_chain(model: nn.Module, w: Weights, x: Samples, uses: Uses) -> Chain | None:
    """The chain that a model is, if its factors of samples x are those of the samples one by one."""
    found = chain(model, w, x, uses)
    if found is None:
        return None
    pairs = list(
        zip(
            trees.leaves(factors(model, w, x, replace(uses, chain=found))),
            trees.leaves(factors(model, w, x, uses)),
            strict=True,
        )
    )
    eps = torch.finfo(pairs[0][0].dtype).eps
    same = all(a.shape == b.shape and float((a - b).norm()) <= eps**0.5 * float(b.norm()) for a, b in pairs)
    return found if same else None
