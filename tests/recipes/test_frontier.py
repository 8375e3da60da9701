"""The frontier: runs as from the command line, resumed where they stopped; the table worked out by hand."""

import math
from itertools import pairwise
from typing import Any

import pytest

import fedtangent
from fedtangent.recipes import frontier as recipe
from tests.often import often

# 480 of the digits, to be quick
FEW = """
from fedtangent.datasets.digits import digits


def few(data_dir):
    all_ = digits(data_dir)
    return all_._replace(x_train=all_.x_train[:480], y_train=all_.y_train[:480])
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("data") / "few.py"
    path.write_text(FEW)
    return {"dataset": str(path), "nodes": 4, "degree": 2, "rounds": 2, "variants": ("FedKFAC", "DFedAvg")}


@pytest.fixture(scope="module")
def rows(small: dict[str, Any]) -> list[dict[str, Any]]:
    return list(recipe.frontier(**small, seeds=2, seed=3))


def made(name: str, seed: int, course: list[float], exposure: str = "aggregate") -> list[dict[str, Any]]:
    """Rows of a run that sends 8 MB a round from 4 nodes."""
    own = {"variant": name, "partition": "0.1", "seed": seed, "exposure": exposure, "nodes": 4, "target": 0.8}
    return [own | {"round": k, "accuracy": a, "sent_bytes": k * 8_000_000} for k, a in enumerate(course, 1)]


def test_rows_are_those_of_runs(small: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    assert [(row["seed"], row["variant"], row["round"]) for row in rows] == [
        (seed, name, k) for seed in (3, 4) for name in small["variants"] for k in (1, 2)
    ]
    given = {
        "dataset": small["dataset"],
        "alpha": 0.1,
        "nodes": 4,
        "rounds": 2,
        "seed": 4,
        "topology": "regular",
        "degree": 2,
    }
    alone = fedtangent.run("dfedavg", **given).rounds
    assert [(row["accuracy"], row["sent_bytes"]) for row in rows[-2:]] == [
        (entry["accuracy"], entry["sent_bytes"]) for entry in alone
    ]
    assert {row["exposure"] for row in rows} == {"aggregate"}


def test_what_is_there_is_not_run_again(small: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    for there in (3, len(rows)):
        assert list(recipe.frontier(rows[:there], **small, seeds=2, seed=3)) == rows[there:]


@pytest.mark.parametrize(
    "variant",
    often(recipe.VARIANTS, ["FedKFAC", "FedAvg cohort", "NTK-FL cohort", "DFedKFAC", "DFedKFAC sums", "NTK-DFL"]),
)
def test_every_variant_runs(variant: str, small: dict[str, Any]) -> None:
    own: dict[str, Any] = {"nodes": 12, "degree": 5, "rounds": 1, "variants": (variant,), "partitions": ("iid",)}
    if "KFAC" in variant:  # whose guard asks for rows enough
        own["dataset"] = "digits"
    if "FedPart" in variant:  # whose cycle has as many
        own["rounds"] = 3
    rows = list(recipe.frontier(**small | own))
    assert len(rows) == own["rounds"]
    assert 0 < rows[0]["accuracy"] <= 1


def test_the_table_is_the_hands() -> None:
    rows = [
        *made("FedKFAC", 0, [0.7, 0.8, 0.86]),
        *made("FedKFAC", 1, [0.81, 0.85, 0.9]),
        *made("NTK-DFL", 0, [0.1, 0.2, 0.3], "raw-equivalent"),
    ]
    kfac, ntk = recipe.table(rows)
    assert kfac["method"] == "FedKFAC"
    assert kfac["runs"] == 2
    assert kfac["rounds to 0.8"] == 1.5
    assert kfac["MB"] == 3.0  # 2 and 1 rounds of 8 MB over 4 nodes: 4 and 2
    assert kfac["end"] == pytest.approx(0.88)
    assert kfac["dev"] == pytest.approx(0.04 / math.sqrt(2))
    assert ntk["exposure"] == "raw-equivalent"
    assert math.isnan(ntk["rounds to 0.8"])
    assert math.isnan(ntk["dev"])


def test_the_figure_has_a_line_a_method_and_panel() -> None:
    rows = [*made("FedKFAC", 0, [0.7, 0.8]), *made("NTK-DFL", 0, [0.1, 0.9], "raw-equivalent")]
    panels = recipe.figure(rows).axes
    assert len(panels) == 4
    for axes, x, style in zip(panels, ([1, 2], [2, 4]) * 2, ("-", "-", ":", ":"), strict=True):
        assert [list(line.get_xdata()) for line in axes.lines] == [x]
        assert [line.get_linestyle() for line in axes.lines] == [style]
        assert [text.get_text() for text in axes.texts] == [line.get_label() for line in axes.lines]
    assert len(recipe.figure(rows[:2]).axes) == 2


def test_names_of_lines_that_end_together_do_not_overlap() -> None:
    names = [name for name in recipe.NEIGHBOURS if name != "NTK-DFL"]
    rows = [row for name in names for row in made(name, 0, [0.5, 0.82])]
    for axes in recipe.figure([*rows, *made("NTK-DFL", 0, [0.5, 0.3])]).axes:
        low, high = axes.get_ylim()
        heights = sorted(text.xyann[1] for text in axes.texts)
        assert len(heights) == len(recipe.NEIGHBOURS)
        assert all(later - before >= (high - low) / 27 for before, later in pairwise(heights))
        assert low <= heights[0]
        assert heights[-1] < high


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rounds": 0}, "^`rounds`, `seeds`, `variants` and `partitions` must be at least one; got 0, 1"),
        ({"variants": ("FedKFACS",)}, "FedKFACS"),
        ({"variants": ("FedAvg", recipe.PARTIAL)}, "^`rounds` must be at least 3, a cycle of FedPart .*; got 2"),
        ({"partitions": ("no.npz",)}, "no.npz"),
    ],
)
def test_what_cannot_be_is_one_sentence(wrong: dict[str, Any], message: str, small: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=message):
        list(recipe.frontier(**small | wrong))
