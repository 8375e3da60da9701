"""f1: the mean over classes of the harmonic mean of precision and recall (macro F1).

A class counts that is the label of a row, or that a row is taken for.
"""

import torch
from torch import Tensor


def f1(outputs: Tensor, labels: Tensor) -> float | None:
    """Macro F1 in [0, 1]; a row whose outputs are not finite is taken for no class.

    Args:
        outputs: A row's outputs by class, (n, C).
        labels: (n,), from 0 to C - 1.
    """
    guessed = torch.where(outputs.isfinite().all(-1), outputs.argmax(-1), -1)
    classes = outputs.shape[1]
    right = torch.bincount(labels[guessed == labels], minlength=classes)
    there = torch.bincount(labels, minlength=classes) + torch.bincount(guessed[guessed >= 0], minlength=classes)
    return float((2 * right / there.double())[there > 0].mean())
