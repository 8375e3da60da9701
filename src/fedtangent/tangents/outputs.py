"""Which part of a model's result is its outputs (n, C): all of it, or a part by name, by index or by a function."""

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import Any

from torch import Tensor, nn

Outputs = str | int | Callable[[Any], Tensor] | None


class Picked(nn.Module):
    """A model with the choice of its outputs: what the functions of tangents hand on as the model."""

    def __init__(self, model: nn.Module, outputs: Outputs) -> None:
        super().__init__()
        if not (outputs is None or isinstance(outputs, (str, int)) or callable(outputs)):
            raise TypeError(
                f"`outputs` must be a name, an index or a function of what the model returns; "
                f"got {type(outputs).__name__}. Give such as 'logits'."
            )
        self.model, self.outputs = model, outputs

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """f(x), (n, C)."""
        return self.pick(self.model(*args, **kwargs))

    def pick(self, result: Any) -> Tensor:
        """The outputs (n, C) of what the model returned; one output (n, 1) of numbers (n,).

        Raises:
            TypeError: A result that is no tensor, of which nothing was picked; numbers that are not real.
            ValueError: A name or an index that the result has not; other axes.
        """
        if self.outputs is None:
            f = result
        elif isinstance(self.outputs, (str, int)):
            f = _part(result, self.outputs)
        else:
            f = self.outputs(result)
        if not isinstance(f, Tensor):
            if self.outputs is not None:
                raise TypeError(f"`outputs` must pick a tensor; got {type(f).__name__}. {_advice(result)}")
            raise TypeError(f"`model` must return a tensor (n, C); got {type(f).__name__}. {_advice(f)}")
        if not f.is_floating_point():
            raise TypeError(
                f"`model` must return real numbers in floating point; got {f.dtype}. "
                + ("Take torch.view_as_real(f).flatten(1)." if f.is_complex() else "Return what it is computed from.")
            )
        if f.dim() not in (1, 2):
            raise ValueError(
                f"`model` must return outputs (n, C); got shape {tuple(f.shape)}. "
                "Flatten its outputs: outputs=lambda f: f.flatten(1)."
            )
        return f[:, None] if f.dim() == 1 else f


def _part(result: Any, which: str | int) -> Any:
    if isinstance(result, Mapping) and which in result:
        return result[which]
    if isinstance(which, str) and hasattr(result, which) and not isinstance(result, Tensor):
        return getattr(result, which)
    if isinstance(which, int) and not isinstance(result, Tensor):
        try:
            return result[which]
        except (LookupError, TypeError):
            pass
    got = f"a tensor {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
    raise ValueError(f"`outputs` must be in what the model returns; got {which!r} of {got}. {_advice(result)}")


def _advice(result: Any) -> str:
    """How to pick from a result: by the first part that could be the outputs, else by any."""
    if isinstance(result, Tensor):
        return "Leave outputs out, or give a function of the tensor."
    if is_dataclass(result) and not isinstance(result, Mapping):
        result = vars(result)
    if not isinstance(result, Mapping):
        result = dict(enumerate(result)) if isinstance(result, (tuple, list)) else {}
    fitting = [name for name, part in result.items() if isinstance(part, Tensor) and part.is_floating_point()]
    best = (
        [name for name in fitting if result[name].dim() == 2] + [n for n in fitting if result[n].dim() == 1] + fitting
    )
    return f"Pick its outputs: outputs={best[0]!r}." if best else "Pick its outputs by a function of what it returns."
