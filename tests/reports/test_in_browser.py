"""The page in a real browser: it opens at once, fits a phone, tells its values, and its script is all that runs."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedtangent.reports import page
from tests.browser import Browser, browser
from tests.reports.folders import Run

LONG = {"a_setting_with_a_name": "0.1234567890123456789012345678901234567890"}


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def three(run: Run, tmp_path: Path) -> Path:
    runs = [
        run(method, accuracies=accuracies, node_accuracy=[0.5, 0.7], class_accuracy=[0.9, top, 0.1])
        for method, accuracies, top in (
            ("fedavg", [0.2, 0.4, 0.6], 0.2),
            ("dfedavg", [0.3, 0.5, 0.7], 0.4),
            ("local", [0.1, 0.1, 0.1], 0.3),
        )
    ]
    page.write(runs, tmp_path / "a page.html", 0.5)
    return tmp_path / "a page.html"


def tip(chromium: Browser, plot: str) -> str:
    """What is told beside the pointer, in one line."""
    told = f"document.querySelector('#plot-{plot} .tip')"
    return " ".join(chromium.run(f"{told}.hidden ? '' : {told}.innerText").split())


def order(chromium: Browser) -> str:
    names = "[...document.querySelectorAll('.summary tbody th')].map((head) => head.textContent).join(' ')"
    return str(chromium.run(names))


@pytest.mark.slow
def test_twelve_methods_of_three_hundred_nodes_open_in_a_second(run: Run, tmp_path: Path, chromium: Browser) -> None:
    rng = np.random.default_rng(0)
    runs = [
        run(f"method{i}", seed, nodes=300, rounds=40, node_accuracy=rng.random(300), class_accuracy=rng.random(10))
        for i in range(12)
        for seed in range(3)
    ]
    page.write(runs, tmp_path / "page.html")
    assert min(chromium.open(tmp_path / "page.html") for _ in range(3)) < 1  # at best: the machine may do much else
    assert chromium.complaints() == []


@pytest.mark.parametrize("width", [360, 641, 1200])
@pytest.mark.parametrize("dark", [False, True])
def test_the_text_is_never_wider_than_the_screen(
    run: Run, tmp_path: Path, chromium: Browser, width: int, dark: bool
) -> None:
    runs = [run(f"method{i}", rounds=3, options=LONG, class_accuracy=[0.2, 0.4]) for i in range(6)]
    page.write([*runs, run("x" * 60, rounds=2), run(options={"mu": 1})], tmp_path / "page.html")
    chromium.open(tmp_path / "page.html", width, dark=dark)
    assert chromium.run("document.documentElement.scrollWidth") == width
    texts = "p, h1, h2, h3, li, figcaption, dd, dt, summary, .summary td, .summary tbody th"
    wide = f"[...document.querySelectorAll('{texts}')]"
    assert (
        chromium.run(f"{wide}.filter((e) => e.getBoundingClientRect().right > {width}).map((e) => e.outerHTML)") == []
    )
    ground = chromium.run("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(21, 23, 26)" if dark else "rgb(252, 252, 250)")


def test_nothing_else_is_loaded_and_nothing_is_refused(three: Path, chromium: Browser) -> None:
    chromium.open(three)
    assert chromium.asked() == [three.as_uri()] and chromium.complaints() == []


def test_another_script_does_not_run(three: Path, chromium: Browser) -> None:
    evil = three.with_name("evil.html")
    evil.write_text(three.read_text().replace("</main>", "<script>document.title = 'evil'</script></main>"))
    chromium.open(evil)
    assert chromium.run("document.title") != "evil"
    assert any("Content Security Policy" in told for told in chromium.complaints())


def test_the_mouse_is_told_the_values_below_it(three: Path, chromium: Browser) -> None:
    chromium.open(three)
    at = """(() => { const plot = document.querySelector('#plot-curve-round'); plot.scrollIntoView();
        const ring = plot.querySelector('.ring'), box = plot.getBoundingClientRect();
        return [box.left + box.width / 2, box.top + box.height / 2, box.right]; })()"""
    x, y, right = chromium.run(at)
    chromium.point(x, y)
    assert tip(chromium, "curve-round") == "Round 2 dfedavg 0.500, 2.47 MB fedavg 0.400, 2.47 MB local 0.100, 0"
    chromium.point(right + 5, y)
    assert tip(chromium, "curve-round") == ""


def test_the_arrow_keys_go_from_value_to_value(three: Path, chromium: Browser) -> None:
    chromium.open(three)
    while chromium.run("document.activeElement.id") != "plot-curve-round":
        chromium.press("Tab")
    said = []
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "End", "ArrowRight", "Home", "Escape"):
        chromium.press(key)
        said.append(tip(chromium, "curve-round")[:7])
    assert said == ["Round 1", "Round 2", "Round 1", "Round 3", "Round 3", "Round 1", ""]


@pytest.mark.parametrize(
    ("plot", "key", "said"),
    [
        ("curve-sent-bytes", "End", "At most 3.70 MB dfedavg 0.700, round 3 fedavg 0.600, round 3 local 0.100"),
        ("over-nodes", "Home", "50% of the nodes have at most fedavg 0.500 dfedavg 0.500 local 0.500"),
        ("over-classes", "ArrowDown", "Class 0 fedavg 0.900 dfedavg 0.900 local 0.900"),
    ],
)
def test_every_figure_tells_its_values(three: Path, chromium: Browser, plot: str, key: str, said: str) -> None:
    chromium.open(three)
    chromium.run(f"document.getElementById('plot-{plot}').focus()")
    chromium.press(key)
    assert tip(chromium, plot) == said


def test_the_labels_of_a_node_are_told(run: Run, tmp_path: Path, chromium: Browser) -> None:
    page.write([run(manifest={"labels": [[3, 0, 5]] * 10}, rounds=2)], tmp_path / "page.html")
    chromium.open(tmp_path / "page.html")
    chromium.run("document.getElementById('plot-skew-0').focus()")
    chromium.press("ArrowRight")
    assert tip(chromium, "skew-0") == "Node 0, 8 rows class 0 3 class 2 5"


def test_a_method_that_is_switched_off_is_neither_drawn_nor_told(three: Path, chromium: Browser) -> None:
    chromium.open(three)
    chromium.run("document.querySelectorAll('.names input')[1].click()")
    parts = "[...document.querySelectorAll('svg .of-1')].map((part) => part.getBoundingClientRect().width)"
    assert set(chromium.run(parts)) == {0}
    chromium.run("document.getElementById('plot-curve-round').focus()")
    chromium.press("ArrowRight")
    assert tip(chromium, "curve-round") == "Round 1 fedavg 0.200, 1.23 MB local 0.100, 0"
    none, every = "buttons[buttons.length - 1].click()", "buttons[buttons.length - 2].click()"
    buttons = "const buttons = document.querySelectorAll('.names button');"
    chromium.run(f"(() => {{ {buttons} {none} }})()")
    assert tip(chromium, "curve-round") == ""
    chromium.run(f"(() => {{ {buttons} {every} }})()")
    assert min(chromium.run(parts)) > 0


def test_a_column_is_sorted_both_ways_and_what_is_missing_stays_last(three: Path, chromium: Browser) -> None:
    chromium.open(three)
    head = "document.querySelectorAll('.summary thead th')"
    click = "{}[{}].querySelector('button').click()"
    assert order(chromium) == "fedavg dfedavg local"
    for column, ways in (
        (3, ["dfedavg fedavg local", "fedavg dfedavg local"]),
        (0, ["dfedavg fedavg local", "local fedavg dfedavg"]),
        (1, ["local fedavg dfedavg", "dfedavg fedavg local"]),
    ):
        for way, expected in zip(("ascending", "descending"), ways, strict=True):
            chromium.run(click.format(head, column))
            assert order(chromium) == expected
            assert chromium.run(f"{head}[{column}].getAttribute('aria-sort')") == way
    assert chromium.run(f"[...{head}].filter((cell) => cell.hasAttribute('aria-sort')).length") == 1


def test_a_phone_sorts_by_a_list(three: Path, chromium: Browser) -> None:
    chromium.open(three, 360)
    choice = "document.querySelector('.sorting select')"
    assert chromium.run(f"{choice}.getBoundingClientRect().width") > 0
    chosen = "(() => {{ const list = {0}; list.value = '{1}'; list.dispatchEvent(new Event('change')); }})()"
    for value, expected in (
        ("1a", "local fedavg dfedavg"),
        ("1d", "dfedavg fedavg local"),
        ("", "fedavg dfedavg local"),
    ):
        chromium.run(chosen.format(choice, value))
        assert order(chromium) == expected


def test_without_script_the_page_shows_the_same_but_no_switches(three: Path, chromium: Browser) -> None:
    before, script, after = re.split(r"(<script>.*?</script>)", three.read_text(), flags=re.DOTALL)
    assert "addEventListener" in script
    three.write_text(before + after)
    chromium.open(three)
    assert chromium.run("document.querySelector('.names').getBoundingClientRect().height") == 0
    assert chromium.run("document.querySelectorAll('.plot svg').length") == 6


def test_two_lines_that_are_the_same_are_both_seen(run: Run, tmp_path: Path, chromium: Browser) -> None:
    track = [0.1, 0.5, 0.7, 0.72]
    page.write([run(name, accuracies=track) for name in ("fedavg", "fedprox")], tmp_path / "page.html")
    chromium.open(tmp_path / "page.html")
    chromium.run("document.querySelector('#plot-curve-round').scrollIntoView()")
    chromium.shot(tmp_path / "screen.png", whole=False)
    held = Image.open(io.BytesIO((tmp_path / "screen.png").read_bytes())).convert("RGB")
    box = chromium.run("(({left, top, right, bottom}) => [left, top, right - 90, bottom])"
                       "(document.querySelector('#plot-curve-round').getBoundingClientRect())")  # fmt: skip
    pixels = np.asarray(held.crop([round(side) for side in box])).reshape(-1, 3).astype(int)
    seen = [int((abs(pixels - colour).sum(axis=1) < 20).sum()) for colour in ([0x6A, 0x6A, 0xC9], [0xA4, 0x67, 0x05])]
    assert min(seen) > 100 and max(seen) < 3 * min(seen)
