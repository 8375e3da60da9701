"""The tangent kernel at several weights: how far it moves while a network trains, and towards what.

Fort, Dziugaite, Paul, Kharaghani, Roy, Ganguli, Deep learning versus kernel learning, 2020, measure the distance of
kernels along training; centred alignment is that of Cortes, Mohri, Rostamizadeh, Algorithms for learning kernels based
on centered alignment, 2012, and, between kernels of features, the CKA of Kornblith, Norouzi, Lee, Hinton, Similarity of
neural network representations revisited, 2019.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.module_state import copied
from fedtangent.tangents.autocast import without_autocast
from fedtangent.tangents.capture.functional import TURN, Weights
from fedtangent.tangents.capture.outputs import Outputs
from fedtangent.tangents.capture.samples import tensor
from fedtangent.tangents.kernel import kernel
from fedtangent.tangents.matrix import matrix
from fedtangent.tangents.numerics.kernel_parts import Kind
from fedtangent.tangents.numerics.symmetric import read
from fedtangent.tangents.plan import MEMORY


class Course(NamedTuple):
    """What kernels at T checkpoints have in common, in float64; made by `checkpoint_kernels`.

    Attributes:
        distance: 1 - <K_s, K_t> / (|K_s| |K_t|), (T, T): 0 for kernels that differ by a factor.
        cka: The same cosine, not taken from 1, of the kernels centred over samples, (T, T): 1 for those that differ by
            a factor and a constant.
        size: |K_t|, Frobenius' norm, (T,).
        alignment: With the targets, <H K_t H, y y^T> / (|H K_t H| |H y y^T H|), (T,); None without y.
        kernels: (T, n, n, C, C), (T, n, n) or (T, n, n, C), where they were asked for.
    """

    distance: Tensor
    cka: Tensor
    size: Tensor
    alignment: Tensor | None
    kernels: Tensor | None


@without_autocast()
def checkpoint_kernels(
    model: nn.Module,
    checkpoints: Iterable[Weights | str | Path],
    x: Any,
    *,
    y: Tensor | None = None,
    kind: Kind = "trace",
    keep: bool = False,
    outputs: Outputs = None,
    memory_bytes: int = MEMORY,
) -> Course:
    """The kernels of a model at T checkpoints, with their distances, CKA, and alignment with the targets.

    T times the cost of `kernel`, and all T kernels in memory until the end.

    Args:
        model: As of `kernel`; stays as it is.
        checkpoints: State dicts, or the trainable parameters alone, or files of them in the format of safetensors; a
            generator is read one at a time. Whatever a checkpoint does not hold is the model's own.
        x: Samples along the first axis.
        y: Labels (n,) or targets (n, C).
        kind: As of `kernel`.
        keep: Return the kernels.
        outputs: As of `kernel`.
        memory_bytes: As of `kernel`, beside the T kernels.

    Raises:
        TypeError: As `kernel`; a checkpoint that is neither a dict of tensors nor a path.
        ValueError: As `kernel`; no checkpoint, or one that is not the model's or cannot be read; a y that does not fit;
            a kernel that is zero, or constant over samples.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> start = {name: p.detach().clone() for name, p in model.named_parameters()}
        >>> course = checkpoint_kernels(model, [start, {"2.weight": 3 * start["2.weight"]}], torch.eye(3))
        >>> course.distance.shape, bool(course.distance[0, 1] > 0)
        (torch.Size([2, 2]), True)
    """
    if isinstance(checkpoints, (Mapping, str, Path)) or not isinstance(checkpoints, Iterable):
        raise SettingTypeError(
            f"`checkpoints` must be several, such as a list of state dicts; got {type(checkpoints).__name__}. "
            "Put it in a list."
        )
    with TURN:
        own = copied(model)
    state = {name: part.detach().clone() for name, part in own.state_dict().items()}
    found = []
    for place, given in enumerate(checkpoints):
        own.load_state_dict({**state, **_read(given, state, place)})
        found.append(kernel(own, x, kind=kind, outputs=outputs, memory_bytes=memory_bytes))
    if not found:
        raise SettingError("`checkpoints` must hold weights; got none. Give a state dict for each.")
    with torch.no_grad():
        targets = None if y is None else read("kernel", found[0]).targets(tensor("y", y))
        rows = [_flat(k) for k in found]
        size = torch.stack([row.norm() for row in rows])
        centred = [_flat(_centred(k)) for k in found]
        aligned = None if targets is None else torch.stack([_alignment(k, targets) for k in found])
        distance = _distances(rows)
        return Course(distance, 1 - _distances(centred), size, aligned, torch.stack(found) if keep else None)


def _read(given: Any, state: Weights, place: int) -> Weights:
    """A checkpoint as tensors of the model's names and shapes."""
    if isinstance(given, (str, Path)):
        try:
            given = load_file(given)
        except (OSError, SafetensorError) as error:
            raise SettingError(
                f"`checkpoints` must be readable files of safetensors; got {str(given)!r}: {error}. Name another."
            ) from error
    if not isinstance(given, Mapping):
        raise SettingTypeError(
            f"`checkpoints` must hold dicts of tensors or paths; got {type(given).__name__} at place {place}. "
            "Give state dicts."
        )
    for name, part in given.items():
        if name not in state or not isinstance(part, Tensor) or part.shape != state[name].shape:
            what = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
            raise SettingError(
                f"`checkpoints` must hold the model's names and shapes; got {name!r} {what} at place {place}. "
                "Give model.state_dict()."
            )
    return dict(given)


def _flat(k: Tensor) -> Tensor:
    return k.to(torch.float64).flatten()


def _centred(k: Tensor) -> Tensor:
    """H K H over samples, H = 1 - 1/n: of every pair of outputs its own."""
    k = k.to(torch.float64)
    k = k - k.mean(0, keepdim=True)
    return k - k.mean(1, keepdim=True)


def _distances(rows: list[Tensor]) -> Tensor:
    """1 - cos between vectors, by half the square of the difference of unit vectors: exact near 0 too."""
    length = [row.norm() for row in rows]
    for place, one in enumerate(length):
        if not bool(one > 1e-12 * rows[place].abs().max().clamp(min=1e-30)):
            raise SettingError(
                f"`checkpoints` must have kernels that are not zero or constant over samples; got one at place {place}."
                " Look at its weights, or give more samples."
            )
    unit = [row / one for row, one in zip(rows, length, strict=True)]
    return torch.stack([torch.stack([((a - b) ** 2).sum() / 2 for b in unit]) for a in unit])


def _alignment(k: Tensor, targets: Tensor) -> Tensor:
    """With y y^T of targets (blocks, rows, q), centred over samples too."""
    blocks = matrix(_centred(k))[None] if k.dim() != 3 else _centred(k).movedim(2, 0)
    by_sample = targets.reshape(len(targets), len(k), -1)
    y = (by_sample - by_sample.mean(1, keepdim=True)).reshape(targets.shape)
    gram = torch.einsum("bmq,bmr->qr", y, y)
    aligned: Tensor = (y * (blocks @ y)).sum() / (blocks.norm() * gram.norm())
    return aligned
