"""auc: the area under the ROC curve, of the second of two classes, or one class against the rest, the mean of all.

Fawcett. An Introduction to ROC Analysis. Pattern Recognition Letters 2006, sections 7 and 9: the area is the share of
pairs of rows, one of the class and one of the rest, in which the first has the higher score; ties count by half.
"""

import torch
from torch import Tensor


def auc(outputs: Tensor, labels: Tensor) -> float | None:
    """Area under the ROC curve in [0, 1]; None where all rows are of one class.

    Of two classes it is that of the second; of more the mean over the classes that some of the rows have, each against
    the rest by its softmax. A row whose outputs are not finite comes last in every order.

    Args:
        outputs: A row's outputs by class, (n, C).
        labels: (n,), from 0 to C - 1.
    """
    from scipy.stats import rankdata

    there = torch.unique(labels)
    if len(there) < 2:
        return None
    finite = outputs.isfinite().all(-1, keepdim=True)
    scores = torch.where(finite, outputs.double(), 0).softmax(-1)
    if outputs.shape[1] == 2:
        scores, there = torch.where(finite, outputs.double(), 0).diff(dim=-1).expand(-1, 2), there[1:]
    scores = torch.where(finite, scores, scores.min() - 1)
    own = labels[:, None] == there
    ranks = torch.from_numpy(rankdata(scores[:, there].numpy(), axis=0))  # of the lowest it is 1, and the mean of ties
    ones = own.sum(0)
    pairs = (ranks * own).sum(0) - ones * (ones + 1) / 2
    return float((pairs / (ones * (len(labels) - ones))).mean())
