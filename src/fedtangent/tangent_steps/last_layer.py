"""The last linear layer of a model, whose results are its outputs."""

from torch import nn

from fedtangent.errors import SettingError
from fedtangent.training.task import Task


def last_layer(task: Task) -> tuple[str, nn.Linear]:
    """The last linear layer, and the prefix of its parameters' names; raises one sentence where it is not trained."""
    found = [(name, part) for name, part in task.model.named_modules() if isinstance(part, nn.Linear)]
    if not found:
        raise SettingError("`model` must end in a linear layer; got none. Use another method, such as fedkfac.")
    name, layer = found[-1]
    prefix = f"{name}." if name else ""
    missing = {f"{prefix}{own}" for own in ("weight", "bias") if getattr(layer, own) is not None} - {*task.w_0}
    if missing:
        raise SettingError(
            f"`model` must have a last linear layer that is trained and of its own; got {', '.join(sorted(missing))} "
            "frozen, tied or derived, as by weight_norm. Let it require gradients, without a parametrisation."
        )
    return prefix, layer
