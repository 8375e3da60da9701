"""Intercept: functions of torch replaced by others while a model runs."""

from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Table = Mapping[Any, Callable[..., Any]]


class Intercept(TorchFunctionMode):
    """While it is entered, the functions of a table are replaced, also inside torch's own dropout and attention.

    Under every transform of torch.func, since it acts above them. A replacement itself runs outside of it.

    Args:
        table: The replacements, by function as torch.overrides knows it.
    """

    def __init__(self, table: Table) -> None:
        super().__init__()
        self.table = table

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs a function, or what replaces it."""
        kwargs = kwargs or {}
        if function in self.table:
            return self.table[function](*args, **kwargs)
        if function in _INSIDE:
            with self:
                return _INSIDE[function](*args, **kwargs)
        return function(*args, **kwargs)


def _shown(function: Any) -> Any:
    """The same Python function, which does not hand itself over to a mode, so that the mode sees what it calls."""
    asks = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    scope = function.__globals__ | dict.fromkeys(asks, lambda *_: False)
    return FunctionType(function.__code__, scope, function.__name__, function.__defaults__, function.__closure__)


# torch's functions in Python that call a random one
_INSIDE = {
    function: _shown(function)
    for function in (
        F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, F.rrelu,
        F.gumbel_softmax, F.multi_head_attention_forward,
    )
}  # fmt: skip
