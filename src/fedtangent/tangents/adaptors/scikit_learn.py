"""A tangent kernel as a transformer of scikit-learn, before any estimator with a precomputed kernel."""

from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from fedtangent import trees
from fedtangent.tangents.capture.functional import trainable
from fedtangent.tangents.capture.outputs import Outputs
from fedtangent.tangents.capture.samples import tensor
from fedtangent.tangents.kernel import kernel
from fedtangent.tangents.plan import MEMORY


class TangentKernel(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """The trace kernel between samples and those that it was fitted on, for `kernel="precomputed"`.

    Arrays, data frames and lists of floating point are taken in the type of the model's weights. In cross-validation
    scikit-learn copies the model; every fold computes its kernel anew.

    Args:
        model: As of `tangents.kernel`.
        outputs: As of `tangents.kernel`.
        memory_bytes: As of `tangents.kernel`.

    Example:
        >>> import torch
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.svm import SVC
        >>> _ = torch.manual_seed(0)
        >>> x, y = np.array([[-2.0, 1.0], [-1.0, 0.0], [1.0, 2.0], [2.0, 1.0]]), [0, 0, 1, 1]
        >>> network = nn.Sequential(nn.Linear(2, 20), nn.ReLU(), nn.Linear(20, 2))
        >>> machine = make_pipeline(TangentKernel(network), SVC(kernel="precomputed")).fit(x, y)
        >>> machine.predict(np.array([[-3.0, 1.0], [3.0, 1.0]])).tolist()
        [0, 1]
    """

    def __init__(self, model: nn.Module, outputs: Outputs = None, memory_bytes: int = MEMORY) -> None:
        self.model, self.outputs, self.memory_bytes = model, outputs, memory_bytes

    def fit(self, x: Any, y: Any = None) -> Self:
        """Keeps the samples (n, ...) and a copy of the model's weights; y is not looked at."""
        self.x_ = self._typed(x)
        self.w_ = trees.map(torch.clone, trainable(self.model))
        return self

    def transform(self, x: Any) -> np.ndarray:
        """K between samples (m, ...) and those of `fit`, (m, n).

        Raises:
            TypeError, ValueError: As `tangents.kernel`; not fitted.
        """
        check_is_fitted(self)
        return self._kernel(self._typed(x), self.x_)

    def fit_transform(self, x: Any, y: Any = None, **more: Any) -> np.ndarray:
        """K of the samples with themselves, (n, n), in half of the work.

        Raises:
            TypeError, ValueError: As `tangents.kernel`.
        """
        return self._kernel(self.fit(x).x_, None)

    def _kernel(self, x1: Any, x2: Any) -> np.ndarray:
        found = kernel(
            self.model, x1, x2, kind="trace", w=self.w_, outputs=self.outputs, memory_bytes=self.memory_bytes
        )
        return found.cpu().numpy()

    def _typed(self, x: Any) -> Any:
        if not isinstance(x, Tensor):
            if not isinstance(x, list) and not hasattr(x, "__array__"):
                return x
            x = np.asarray(x)  # of a data frame, or lists
        found = tensor("x", x)
        like = next(iter(trainable(self.model).values()))
        return found.to(like) if found.is_floating_point() else found.to(like.device)
