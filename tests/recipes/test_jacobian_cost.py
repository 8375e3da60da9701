"""The cost of Jacobian work: both ways find the same, peaks counted by hand, the table, the full size."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedtangent.models.mlp import mlp
from fedtangent.recipes import jacobian_cost as recipe
from tests.recipes.records import kept

SMALL: dict[str, Any] = {"widths": (2, 3), "samples": 4, "repeats": 1}


@pytest.mark.parametrize("work", ["kernel", "product"])
def test_both_ways_find_the_same(work: str) -> None:
    model = mlp((6,), 3, np.random.default_rng(0), hidden=(5,)).double()
    x, alpha = (torch.randn(4, size, dtype=torch.float64, generator=torch.manual_seed(size)) for size in (6, 3))
    explicit, factorised = (recipe.WAYS[work, way](model, x, alpha)() for way in ("explicit", "factorised"))
    torch.testing.assert_close(explicit, factorised, rtol=1e-10, atol=0)
    rows = []
    for output in model(x).flatten():
        parts = torch.autograd.grad(output, list(model.parameters()), retain_graph=True)
        rows.append(torch.cat([part.flatten() for part in parts]))
    j = torch.stack(rows)
    literal = (j @ j.T).view(4, 3, 4, 3) if work == "kernel" else (j @ (j.T @ alpha.flatten())).view(4, 3)
    torch.testing.assert_close(factorised, literal, rtol=1e-10, atol=0)


def test_the_peak_by_hand() -> None:
    """4,000 bytes, then 12,000 beside them and gone, then 8,000: at most 16,000."""

    def work() -> Tensor:
        first = torch.empty(1000)
        second = torch.empty(3000)
        del second
        return torch.cat([first, first])

    assert recipe.peak_bytes(work) == 16_000


def test_the_explicit_way_holds_the_jacobian_and_the_other_does_not() -> None:
    rows = {(row["work"], row["way"]): row for row in recipe.jacobian_cost(widths=(40,), samples=9, repeats=1)}
    dense = 9 * 10 * (785 * 40 + 41 * 10) * 4
    for work in ("kernel", "product"):
        assert rows[work, "explicit"]["peak_bytes"] >= dense
        assert 0 < rows[work, "factorised"]["peak_bytes"] < dense / 5
        assert all(rows[work, way]["seconds"] > 0 for way in ("explicit", "factorised"))


def test_it_goes_on_where_it_was_stopped() -> None:
    names = ("width", "work", "way")
    rows = list(recipe.jacobian_cost(**SMALL))
    rest = list(recipe.jacobian_cost(rows[:3], **SMALL))
    assert [[row[name] for name in names] for row in rest] == [[row[name] for name in names] for row in rows[3:]]
    assert len(rows) == 8


@pytest.mark.parametrize("bad", [{"widths": ()}, {"widths": (0,)}, {"samples": 0}, {"repeats": 0}])
def test_bad_options_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^`widths`, `samples` and `repeats` must be positive; got .*\. Give such"):
        list(recipe.jacobian_cost(**bad))


def test_the_table_and_the_figure_by_hand() -> None:
    rows = [
        {"width": 7, "work": "kernel", "way": "explicit", "seconds": 0.5, "peak_bytes": 3 * 2**20},
        {"width": 7, "work": "kernel", "way": "factorised", "seconds": 0.02, "peak_bytes": 2**19},
        {"width": 7, "work": "product", "way": "explicit", "seconds": 0.125, "peak_bytes": 2**21},
        {"width": 7, "work": "product", "way": "factorised", "seconds": 0.25, "peak_bytes": 2**20},
    ]
    first, second = recipe.table(rows)
    assert first == pytest.approx(
        {
            "work": "kernel",
            "width": 7,
            "explicit_ms": 500,
            "factorised_ms": 20,
            "faster": 25,
            "explicit_MiB": 3,
            "factorised_MiB": 0.5,
            "smaller": 6,
        }
    )
    assert (second["work"], second["faster"], second["smaller"]) == ("product", 0.5, 2.0)
    assert recipe.table(rows[:3]) == [first]
    panels = recipe.figure(rows).axes
    assert [panel.get_title() for panel in panels] == ["Time, ms", "Peak, MiB"]
    assert [line.get_ydata()[0] for line in panels[1].lines] == [3, 2, 0.5, 1]  # type: ignore[index]


def test_the_kept_record() -> None:
    """At full size: peaks grow like the width with J, hardly without."""
    found = {(row["work"], row["width"]): row for row in recipe.table(kept("jacobian_cost"))}
    for work in ("kernel", "product"):
        assert [row["width"] for (its, _), row in found.items() if its == work] == [10, 50, 100, 500]
        assert found[work, 500]["explicit_MiB"] > 30 * found[work, 10]["explicit_MiB"]
        assert found[work, 500]["smaller"] > 50
    assert found["kernel", 100]["faster"] > 10
