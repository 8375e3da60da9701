"""auc: the area under the ROC curve, of the second of two classes, or one class against the rest, the mean of all.

By scikit-learn's `roc_auc_score`. Fawcett. An Introduction to ROC Analysis. Pattern Recognition
Letters 2006, section 9.
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
    from sklearn.metrics import roc_auc_score

    there = torch.unique(labels)
    if len(there) < 2:
        return None
    finite = outputs.isfinite().all(-1, keepdim=True)
    scores = torch.where(finite, outputs.double(), 0).softmax(-1)
    if outputs.shape[1] == 2:
        scores, there = torch.where(finite, outputs.double(), 0).diff(dim=-1).expand(-1, 2), there[1:]
    scores = torch.where(finite, scores, scores.min() - 1)
    each = [roc_auc_score((labels == c).numpy(), scores[:, c].numpy()) for c in there.tolist()]
    return float(sum(each) / len(each))
