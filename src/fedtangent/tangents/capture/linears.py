"""Models whose parameters are all in linear maps of one vector a sample: their passes take all samples at once.

Elsewhere samples go one by one, under vmap, for a use may mix axes of a batch; here every map is one `F.linear` of
(n, I), which is looked at on some samples before it is relied on. A pass then takes a third of the time, and the result
of a map may be `given`: one that is known already is not computed again.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fedtangent.tangents.capture.functional import Weights, call
from fedtangent.tangents.capture.layers import Hole, Matrix
from fedtangent.tangents.capture.samples import Samples
from fedtangent.tangents.capture.uses import Use, Uses, UsesDiffer


class Linears(TorchFunctionMode):
    """While it is entered: keeps the inputs of linear maps, adds probes to their results, or puts results in place.

    Args:
        w: The parameters, the very tensors that the model is called with.
        uses: Their uses, `linears` all of them.
        probes: To add to the results (n, O), by use.
        given: The results themselves, by use.

    Attributes:
        kept: The inputs (n, I), by use, in the order of the pass.
    """

    def __init__(
        self, w: Weights, uses: Uses, probes: Mapping[str, Tensor] | None = None, given: Weights | None = None
    ) -> None:
        super().__init__()
        self.kept: Weights = {}
        self._probes, self._given = probes or {}, given or {}
        self._keys = {id(w[use.weight]): key for key, use in uses.by_name.items() if isinstance(use, Matrix)}
        self._unseen = {id(part) for name, part in w.items() if name not in uses.seen}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs a function."""
        if self._unseen and any(id(part) in self._unseen for part in (*args, *(kwargs or {}).values())):
            raise UsesDiffer  # a rare way through the model, that none of the samples went on which uses were found
        if function is not F.linear or len(args) < 2 or id(args[1]) not in self._keys:
            return function(*args, **(kwargs or {}))
        key = self._keys[id(args[1])]
        if key in self.kept:
            raise UsesDiffer
        self.kept[key] = args[0]
        if key in self._given:
            return self._given[key]
        found = function(*args, **(kwargs or {}))
        return found + self._probes[key] if key in self._probes else found


def run(
    model: nn.Module,
    w: Weights,
    x: Samples,
    uses: Uses,
    probes: Mapping[str, Tensor] | None = None,
    given: Weights | None = None,
) -> tuple[Tensor, Weights]:
    """f (n, C) of all samples and the inputs (n, I) of every use; to be called inside `plain`.

    Raises:
        UsesDiffer: The pass does not use the parameters as `uses` say.
    """
    linears = Linears(w, uses, probes, given)
    with linears:
        f = call(model, w, x)
    if [*linears.kept] != [*uses.by_name]:
        raise UsesDiffer
    return f, linears.kept


def possible(uses: Uses) -> bool:
    """Whether all uses are `F.linear` of one vector a sample, each with parameters of its own."""
    names = [name for use in uses.by_name.values() for name in use.call.names]
    return len(names) == len({*names}) and not uses.sums and all(map(_linear, uses.by_name.values()))


def _linear(use: Use) -> bool:
    if not isinstance(use, Matrix) or not use.dense or use.call.function is not F.linear:
        return False
    holes = [leaf for leaf in use.call.arguments[0] if isinstance(leaf, Hole)]
    inputs = [hole for hole in holes if not isinstance(hole.key, str)]  # a frozen bias would be another one
    return len(inputs) == 1 and use.call.shapes == ((1, use.fan_out),) and use.layout.in_order
