"""A model with the choice of its outputs: what the functions of tangents hand on as the model."""

from typing import Any

from torch import Tensor, nn

from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.forward import Picker, picked

Outputs = Picker | None


class Picked(nn.Module):
    """A model of which a part of the result, by name, by index or by a function, is the outputs (n, C)."""

    def __init__(self, model: nn.Module, outputs: Outputs) -> None:
        super().__init__()
        if not (outputs is None or isinstance(outputs, (str, int)) or callable(outputs)):
            raise SettingTypeError(
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
            ValueError: Other axes.
        """
        f = picked(result, self.outputs)
        if not f.is_floating_point():
            raise SettingTypeError(
                f"`model` must return real numbers in floating point; got {f.dtype}. "
                + ("Take torch.view_as_real(f).flatten(1)." if f.is_complex() else "Return what it is computed from.")
            )
        if f.dim() not in (1, 2):
            raise SettingError(
                f"`model` must return outputs (n, C); got shape {tuple(f.shape)}. "
                "Flatten its outputs: outputs=lambda f: f.flatten(1)."
            )
        return f[:, None] if f.dim() == 1 else f
