"""A recipe's page: complete, by itself, the same every time, in the page's colours; and its table on the terminal."""

from __future__ import annotations

import base64
import csv
import io
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from rich.console import Console

from fedtangent.reports import recipe_page
from fedtangent.reports.statistics import MISSING
from tests.reports.test_page import checked

MANIFEST = {"recipe": "mine", "options": {"widths": [3, 5], "lr": 0.1}, "versions": {"torch": "2.15"}, "threads": 1}
ROWS = [{"n": 1, "value": 0.5}, {"n": 2, "value": 1e-7, "note": "a,<b>"}]
TABLE = [
    {"first_name": "Δ<", "count": 12345, "share": 0.123456, "left": True},
    {"first_name": "b", "share": math.nan, "more": None, "left": False},
]


def measured(done: Sequence[Any] = (), *, lr: float = 0.1) -> None:
    """What was found, in <one> sentence.

    What was
    done.

    And why.

    Args:
        done: Rows.
        lr: Not on the page.
    """


def drawn(rows: Any) -> Figure:
    """Two decades and a label that must be escaped."""
    figure = Figure(figsize=(8, 4))
    axes = figure.subplots()
    axes.plot([row["n"] for row in rows], [row["value"] for row in rows], label="a<b")
    axes.set(yscale="log", title="x_1 and $y$")
    axes.legend()
    return figure


def page(
    path: Path,
    rows: Any = ROWS,
    figure: Callable[[Any], Figure] = drawn,
    measure: Callable[..., Any] = measured,
) -> str:
    recipe_page.write(path, "one sentence & its end.", measure, MANIFEST, rows, TABLE, figure)
    return path.read_text(encoding="utf-8")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "figure.html"


def test_the_page_needs_nothing_else(path: Path) -> None:
    text = page(path)
    (download,) = checked(text).loads
    assert download.startswith("data:text/csv;base64,")
    assert not re.search(r"https?:|@import|<script|<link|<iframe|(?<!data:)//[a-z]|url\((?!#)", text)


def test_the_page_has_its_parts(path: Path) -> None:
    text = page(path)
    for part in (
        "<title>One sentence &amp; its end</title>",
        "fedtangent recipe mine",
        '<p class="finding">What was found, in &lt;one&gt; sentence.</p>',
        '<p class="note">What was done.</p>\n<p class="note">And why.</p>',
        'aria-label="What was found, in &lt;one&gt; sentence."',
        '<th scope="col">first name</th><th scope="col">count</th><th scope="col">share</th>',
        f'<th scope="row">Δ&lt;</th><td>12,345</td><td>0.123</td><td>yes</td><td>{MISSING}</td>',
        f'<th scope="row">b</th><td>{MISSING}</td><td>{MISSING}</td><td>no</td><td>{MISSING}</td>',
        '<th scope="row">options.widths</th><td>[3, 5]</td>',
        "versions.torch",
        "Download the 2 rows as CSV",
        "prefers-color-scheme: dark",
    ):
        assert part in text
    assert "Not on the page" not in text


def test_the_download_holds_the_rows(path: Path) -> None:
    found = re.search(r'download="mine.csv" href="data:text/csv;base64,([^"]*)"', page(path))
    assert found is not None
    text = base64.b64decode(found[1]).decode()
    assert list(csv.DictReader(io.StringIO(text))) == [
        {"n": "1", "value": "0.5", "note": ""},
        {"n": "2", "value": "1e-07", "note": "a,<b>"},
    ]


def test_the_figure_is_in_the_colours_of_the_page(path: Path) -> None:
    text = page(path)
    drawing = text[text.index("<svg") : text.index("</svg>")]
    assert "stroke: var(--curve-0)" in drawing and "var(--ink)" in drawing and "var(--rule)" in drawing
    assert not re.search(r"#[0-9a-f]{6}", drawing)
    assert "a&lt;b" in drawing and "x_1 and $y$" in drawing


def test_powers_of_ten_are_in_plain_letters(path: Path) -> None:
    rows = [{"n": n, "value": value} for n, value in enumerate((1e-7, 1e3, 1e5))]
    ticks = re.findall(r"<text[^>]*>([^<]*)</text>", page(path, rows))
    placed = ({"10⁻⁷", "0.1", "1000", "10⁵"}, {"10⁻⁶", "0.01", "100", "10⁴"})  # as matplotlib 3.11 and 3.10 do
    assert any(powers <= set(ticks) for powers in placed)


def test_the_same_rows_give_the_same_bytes_whatever_matplotlib_is_set_to(path: Path) -> None:
    import matplotlib

    text = page(path)
    with matplotlib.rc_context({"lines.linewidth": 9.0, "axes.grid": False, "font.size": 30.0, "axes.titlesize": 40.0}):
        assert page(path) == text


def test_a_recipe_without_a_docstring(path: Path) -> None:
    assert '<p class="finding">No description.</p>' in page(path, measure=lambda: None)


def test_a_figure_that_fails_leaves_the_old_page(path: Path) -> None:
    def broken(rows: Any) -> Figure:
        raise ZeroDivisionError

    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        page(path, figure=broken)
    assert [file.name for file in path.parent.iterdir()] == ["figure.html"]
    assert path.read_text() == "old"


def test_a_full_disk_leaves_the_old_page(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    path.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"^`out` must be a folder that can be written; got .*No space left"):
        page(path)
    assert [file.name for file in path.parent.iterdir()] == ["figure.html"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("width", [200, 24])
def test_the_terminal_shows_every_letter(width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(recipe_page.terminal(TABLE))
    text = console.export_text()
    if width == 200:
        assert text.split() == [
            "first", "name", "count", "share", "left", "more",
            *[word for word in text.split() if set(word) == {"─"}],
            "Δ<", "12,345", "0.123", "yes", MISSING,
            "b", MISSING, MISSING, "no", MISSING,
        ]  # fmt: skip
    assert "…" not in text


def test_the_picture_is_the_figure_alone_and_the_same_every_time(tmp_path: Path) -> None:
    written = []
    for name in ("one.png", "two.png"):
        recipe_page.picture(tmp_path / name, ROWS, drawn)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    assert written[0][:8] == b"\x89PNG\r\n\x1a\n"
    assert [int.from_bytes(written[0][at : at + 4], "big") for at in (16, 20)] == [800, 400]
