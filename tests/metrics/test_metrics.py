"""F1 and AUC against definitions typed out, and against scikit-learn's own ways to put classes together."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor

from fedtangent.metrics.auc import auc
from fedtangent.metrics.f1 import f1


def drawn(seed: int, rows: int, classes: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    outputs = torch.from_numpy(rng.normal(size=(rows, classes)).round(1))  # some of them tied
    return outputs, torch.from_numpy(rng.integers(classes, size=rows))


def literal_f1(guessed: list[int], labels: list[int]) -> float:
    each = []
    for c in sorted({*guessed, *labels} - {-1}):
        hits = sum(g == y == c for g, y in zip(guessed, labels, strict=True))
        each.append(2 * hits / ((guessed.count(c) + labels.count(c)) or 1))
    return sum(each) / len(each)


def literal_auc(scores: list[float], positive: list[bool]) -> float:
    """The share of pairs of a positive and a negative row in which the positive has the higher score, ties half."""
    high = [s for s, p in zip(scores, positive, strict=True) if p]
    low = [s for s, p in zip(scores, positive, strict=True) if not p]
    return sum((a > b) + 0.5 * (a == b) for a in high for b in low) / (len(high) * len(low))


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 30), classes=st.integers(2, 5))
def test_both_are_as_their_definitions_say(seed: int, rows: int, classes: int) -> None:
    outputs, labels = drawn(seed, rows, classes)
    guessed, truth = outputs.argmax(-1).tolist(), labels.tolist()
    assert f1(outputs, labels) == pytest.approx(literal_f1(guessed, truth))
    if len({*truth}) == 1:
        assert auc(outputs, labels) is None
        return
    share = outputs.softmax(-1) if classes > 2 else outputs - outputs[:, :1]
    own = [1] if classes == 2 else sorted({*truth})
    each = [literal_auc(share[:, c].tolist(), [y == c for y in truth]) for c in own]
    assert auc(outputs, labels) == pytest.approx(sum(each) / len(each))


def test_both_are_as_scikit_learn_puts_classes_together() -> None:
    outputs, labels = drawn(7, 60, 4)
    assert len(labels.unique()) == 4
    assert f1(outputs, labels) == pytest.approx(f1_score(labels, outputs.argmax(-1), average="macro"))
    expected = roc_auc_score(labels, outputs.softmax(-1), multi_class="ovr", average="macro")
    assert auc(outputs, labels) == pytest.approx(expected)
    outputs, labels = drawn(8, 60, 2)
    outputs += torch.linspace(0, 0.01, 60)[:, None].expand(60, 2).cumsum(-1)  # without ties, which rounding breaks
    assert auc(outputs, labels) == pytest.approx(roc_auc_score(labels, outputs.softmax(-1)[:, 1]))


def test_outputs_so_large_that_a_softmax_of_single_precision_ties_them_keep_their_order() -> None:
    outputs = torch.tensor([[0.0, 200.0], [0.0, 300.0], [0.0, 250.0]])
    assert auc(outputs, torch.tensor([0, 1, 1])) == 1


def test_outputs_that_are_not_finite_are_of_no_class_and_come_last() -> None:
    outputs, labels = drawn(9, 12, 3)
    assert len(labels.unique()) == 3
    outputs[4, 1], outputs[7] = torch.nan, torch.inf
    guessed = [-1 if i in (4, 7) else int(row.argmax()) for i, row in enumerate(outputs)]
    assert f1(outputs, labels) == pytest.approx(literal_f1(guessed, labels.tolist()))
    scores = [[-1.0] * 3 if i in (4, 7) else row.softmax(-1).tolist() for i, row in enumerate(outputs)]
    each = [literal_auc([row[c] for row in scores], [y == c for y in labels.tolist()]) for c in range(3)]
    assert auc(outputs, labels) == pytest.approx(sum(each) / 3)
