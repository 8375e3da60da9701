"""Model file: the aggregated model whole, as the `state_dict` that plain PyTorch loads; and the module back from it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fedtangent import catalog, home, trees
from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.experiments import tensor_file
from fedtangent.experiments.experiment import DType, factory
from fedtangent.experiments.options import resolved
from fedtangent.experiments.setup import Setup
from fedtangent.experiments.tensor_file import Tensors, reason
from fedtangent.module_state import cast, unchanged
from fedtangent.training.task import Weights

NAME = "model.safetensors"
BESIDE = "predictor.safetensors"  # what a method's own predictions take beside the model

REMEDY = "Give the folder that a run wrote with `out`."
# Whole numbers among a model's options that are no size of a tensor, such as its layers, are not larger than this.
_SMALL = 1024
# Inputs and outputs of more numbers are not tried.
_PROBED = 10**6


def check(model: nn.Module) -> None:
    """Raises where a module holds what the file cannot.

    Raises:
        TypeError: Its state_dict holds something else than dense tensors of a type that safetensors has.
    """
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise SettingTypeError(
                f"`model` must hold nothing but tensors in its state_dict to be recorded; got {type(value).__name__} "
                f"at {name!r}. Keep it elsewhere, or leave out `out`."
            )
        if value.layout != torch.strided or value.is_quantized or value.dtype == torch.complex128:
            raise SettingTypeError(
                f"`model` must hold dense tensors to be recorded, complex ones as complex64; got {value.dtype}, "
                f"{value.layout} at {name!r}. Convert it, or leave out `out`."
            )


def save(folder: Path, built: Setup, weights: Weights) -> None:
    """Writes the aggregated model, with what it takes to build it again; apart, what predictions take beside it.

    Raises:
        OSError: It cannot be written; the one before is still there.
    """
    described, asked = built.description, built.experiment.model
    module = filled(built.module, weights)
    how = {
        "model": asked if isinstance(asked, str) and not asked.endswith(".py") else None,
        "options": described["model_options"],
        "inputs": built.inputs,
        "outputs": built.classes or built.y_test.shape[1],
        "dtype": described["dtype"],
        "floats": all(leaf.is_floating_point() for leaf in trees.leaves(built.x_test)),
    }
    how["probe"] = _probed(module, how)
    held = module.state_dict()
    tensor_file.save(folder / NAME, how, held)
    if beside := {name: w for name, w in weights.items() if name not in held}:
        tensor_file.save(folder / BESIDE, {}, beside)
    else:
        (folder / BESIDE).unlink(missing_ok=True)  # of an earlier round


def load(folder: str | Path, model: nn.Module | Callable[..., nn.Module] | str | Path | None = None) -> nn.Module:
    """The aggregated model that a run left, in eval mode.

    Args:
        folder: The run's.
        model: Where the run had a model of its own: a module like it, into which the tensors are put, or the function
            or file that built it. Only what you name here is run, never what the folder names.

    Raises:
        ValueError: No model there, a damaged one, or one that is not of this module.
    """
    folder = home.path(folder)
    how, tensors = tensor_file.read(folder / NAME, "folder", REMEDY)
    model = getattr(model, "_orig_mod", model)  # of torch.compile, as a run has it
    module = model if isinstance(model, nn.Module) else _built(folder, _checked(how, folder), tensors, model)
    module = cast(module, None, getattr(torch, _checked(how, folder)["dtype"])).eval()
    _check_same(module.state_dict(), tensors, folder)
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            if not is_lazy(buffer) and 0 in buffer.stride():  # expanded, and so not to be written
                setattr(part, name, buffer.contiguous())
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise SettingError(
            f"`model` must take the tensors of the run in {folder}; got {reason(error)}. Pass a module like the run's."
        ) from error
    _check_loaded(module, how, tensors, folder)
    return module


def weights(folder: Path, built: Setup, like: Weights) -> Weights:
    """The weights that `save` wrote, where those of the last round are `like`.

    Raises:
        ValueError: No model there, or a damaged one, or another.
    """
    _, tensors = tensor_file.read(folder / NAME, "folder", REMEDY)
    own = [name for name in like if name in built.task.w_0]
    if missing := [name for name in own if name not in tensors]:
        raise SettingError(f"`folder` must hold the run's {NAME}; got one without {missing[0]!r}. {REMEDY}")
    beside = tensor_file.read(folder / BESIDE, "folder", REMEDY)[1] if (folder / BESIDE).is_file() else {}
    found = {name: tensors[name].to(like[name]) for name in own}
    return found | {name: tensor.to(built.experiment.device) for name, tensor in beside.items()}


def filled(model: nn.Module, weights: Weights) -> nn.Module:
    """The model with these weights, in eval mode; what a method's own predictions take beside them is left out."""
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for name in own.keys() & weights.keys():
            own[name].copy_(weights[name])
    return model.eval()


def _checked(how: dict[str, Any], folder: str | Path) -> dict[str, Any]:
    """The header of a model file, every value of its type."""
    rules: dict[str, Callable[[Any], bool]] = {
        "model": lambda value: value is None or value in catalog.names("models"),
        "options": lambda value: isinstance(value, dict) and all(map(_plain, value.values())),
        "inputs": _shapes,
        "outputs": _size,
        "dtype": lambda value: value in get_args(DType),
        "floats": lambda value: isinstance(value, bool),
        "probe": lambda value: value is None or _floats(value),
    }
    for name, right in rules.items():
        if name not in how or not right(how[name]):
            raise SettingError(
                f"`folder` must hold a {NAME} that says what it is; got {name} {str(how.get(name))[:60]!r} in "
                f"{folder}. {REMEDY}"
            )
    return how


def _floats(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(one, float) for one in value)


def _size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**40


def _shapes(value: Any) -> bool:
    """Whether it is the shape of a row's inputs, or holds several such shapes."""
    if _shape(value):
        return True
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return len(parts) > 0 and all(map(_shape, parts))


def _shape(value: Any) -> bool:
    return isinstance(value, list) and all(map(_size, value))


def _tuples(inputs: Any) -> Any:
    """Shapes as the function of a model takes them."""
    if _shape(inputs):
        return tuple(inputs)
    return {k: tuple(v) for k, v in inputs.items()} if isinstance(inputs, dict) else tuple(map(tuple, inputs))


def _plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _built(folder: str | Path, how: dict[str, Any], tensors: Tensors, model: Any) -> nn.Module:
    """The module that the caller's function, or one of the package's own models, builds."""
    if model is None and how["model"] is None:
        raise SettingError(
            f"`model` must be given for {folder}, whose run had a model of its own; got none. Pass a module of the "
            "same shape, or the function or file that builds it."
        )
    function = factory("model", how["model"] if model is None else model)
    assert function is not None
    rng: Any = np.random.default_rng(0)
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in how["options"].items()}
    try:
        if model is None:
            rng = _Zeros(sum(tensor.numel() for tensor in tensors.values()))
            _check_sizes(options, tensors)
        found = function(_tuples(how["inputs"]), how["outputs"], rng, **resolved("model", function, options))
    except Exception as error:
        if model is not None:
            raise SettingError(
                f"`model` must build the model of the run in {folder}; got {reason(error)}. Pass a module like the "
                "run's, or the function or file that builds it."
            ) from error
        raise SettingError(
            f"`folder` must hold a {NAME} whose model can be built; got {reason(error)} in {folder}. {REMEDY}"
        ) from error
    if not isinstance(found, nn.Module):
        raise SettingTypeError(
            f"`model` must be a module or give one; got {type(found).__name__}. Return a torch.nn.Module."
        )
    return found


class _Zeros:
    """Zeros in place of a built-in model's first weights, and no more of them than the file holds."""

    def __init__(self, most: int) -> None:
        self._left = most

    def standard_normal(self, size: tuple[int, ...], dtype: Any) -> np.ndarray:
        self._left -= math.prod(size)
        if self._left < 0:
            raise ValueError("a model larger than its file")
        return np.zeros(size, dtype)


def _check_sizes(options: dict[str, Any], tensors: Tensors) -> None:
    """Raises for an option that no model with these tensors has: a file from elsewhere might ask for any size."""
    largest = max([_SMALL, len(tensors), *(size for tensor in tensors.values() for size in tensor.shape)])
    for name, value in options.items():
        many = value if isinstance(value, tuple) else (value,)
        if len(many) > _SMALL or any(isinstance(one, int) and abs(one) > largest for one in many):
            raise ValueError(f"{name} {str(value)[:60]}")


def _check_same(own: dict[str, Any], tensors: Tensors, folder: str | Path) -> None:
    """Raises one sentence about the first tensor that module and file do not share."""
    for name in [*tensors, *own]:
        if name in own and name in tensors:
            mine, its = own[name], tensors[name]
            if is_lazy(mine) or (mine.shape == its.shape and mine.dtype == its.dtype):
                continue
            got = f"{name!r} of shape {tuple(mine.shape)} and {mine.dtype}, and not {tuple(its.shape)} and {its.dtype}"
        else:
            got = f"none named {name!r}" if name in tensors else f"{name!r}, which the run has not"
        raise SettingError(
            f"`model` must have the tensors of the run in {folder}; got {got}. Pass a module like the run's."
        )


def _check_loaded(module: nn.Module, how: dict[str, Any], tensors: Tensors, folder: str | Path) -> None:
    """Raises where the module is another one all the same: by its ties, its activations or what no file holds of it."""
    for name, value in module.state_dict().items():
        if not torch.equal(_bits(value.cpu()), _bits(tensors[name])):
            raise SettingError(
                f"`model` must tie no other tensors than the run in {folder}; got another value at {name!r}. Pass a "
                "module like the run's."
            )
    if how["probe"] is None:
        return
    told, found = (torch.tensor(one, dtype=torch.float64) for one in (how["probe"], _probed(module, how) or []))
    room = 0.01 * float(told.nan_to_num(0, 0, 0).abs().max())  # another machine rounds otherwise, and no more than that
    if told.shape != found.shape or not torch.allclose(found, told, 0, room, equal_nan=True):
        raise SettingError(
            f"`model` must compute what that of the run in {folder} does; got the same tensors and other outputs. Pass "
            "a module with the run's activations, settings and buffers that are not persistent."
        )


def _probed(module: nn.Module, how: dict[str, Any]) -> list[float] | None:
    """Some outputs of a module for two rows that hold nobody's data; None where it cannot take them."""
    if not _shape(how["inputs"]):
        return None
    shape = (2, *how["inputs"])
    if math.prod(shape) > _PROBED:
        return None
    like = next(iter(module.parameters()))
    x = torch.arange(math.prod(shape), device=like.device).reshape(shape) if how["floats"] else torch.zeros(shape)
    x = (x / x.numel()).to(getattr(torch, how["dtype"])) if how["floats"] else x.long().to(like.device)
    try:
        with torch.no_grad(), unchanged(module):
            f = module(x)
        return [float(value) for value in f.flatten()[:_SMALL].tolist()] or None
    except Exception:  # rows of this kind are nothing to it, such as ids
        return None


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)
