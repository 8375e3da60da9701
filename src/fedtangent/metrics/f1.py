"""f1: the mean over classes of the harmonic mean of precision and recall (macro F1).

By scikit-learn's `f1_score`. A class counts that is the label of a row, or that a row is taken for.
"""

import torch
from torch import Tensor


def f1(outputs: Tensor, labels: Tensor) -> float | None:
    """Macro F1 in [0, 1]; a row whose outputs are not finite is taken for no class.

    Args:
        outputs: A row's outputs by class, (n, C).
        labels: (n,), from 0 to C - 1.
    """
    from sklearn.metrics import f1_score

    guessed = torch.where(outputs.isfinite().all(-1), outputs.argmax(-1), -1)
    classes = torch.unique(torch.cat([guessed, labels]))
    return float(
        f1_score(labels.numpy(), guessed.numpy(), labels=classes[classes >= 0], average="macro", zero_division=0)
    )
