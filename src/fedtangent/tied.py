"""Parameters by every name that a model has for them."""

from collections.abc import Mapping

from torch import Tensor, nn


def every_name(model: nn.Module, w: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """w, which has a tied parameter by its first name alone, with its other names added: for `functional_call`.

    A module that is a part of the model at two places is listed once. By itself `torch.func.functional_call` exchanges
    its parameters twice, and leaves plain tensors in their place.
    """
    first: dict[int, str] = {}
    with_names = {**w}
    for place, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                own = f"{place}.{name}" if place else name
                known = first.setdefault(id(parameter), own)
                if known in w:
                    with_names[own] = w[known]
    return with_names
