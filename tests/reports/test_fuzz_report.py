"""2,000 manifests and records that somebody edited: each gives a report, or one sentence, and none takes long."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedtangent import cli
from tests.experiments.tiny import saved
from tests.test_fuzz_command_line import told

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

TEXTS = [
    "",
    " ",
    "[/x]",
    "[bold",
    "\x1b]0;pwned\x07",
    "\x9b31m",
    "\x00",
    "a\nb",
    "\ud800",
    "\u202egnp",
    "</title><script>alert(1)</script>",
]
TEXTS += [
    '"><b onload=x>',
    "&amp;",
    "$title ${css} $",
    "#010001 url(#x)",
    "=1+1",
    "x" * 199,
    "x" * 5000,
    "NaN",
    "none",
    "-->",
    "]]>",
]
NUMBERS: list[Any] = [0, 1, -1, 2, 7, 10**6, 10**9, 2**53, 2**63, 10**30, 10**400, 0.5, 1.5, -0.0, 1e-320, 1e99, 1e308]
NUMBERS += [float("nan"), float("inf"), -float("inf"), True, False, None]
PLAIN = st.sampled_from([*TEXTS, *NUMBERS])
TREES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*TEXTS, "method", "seed", "a.b"]), inner, max_size=4)
    ),
    max_leaves=8,
)
SHAPES: dict[str, Any] = {
    "labels": st.lists(st.lists(st.sampled_from([*NUMBERS, 3]), max_size=4), max_size=6),
    "edges": st.lists(st.lists(st.sampled_from([*NUMBERS, 3, 4, 5]), max_size=3), max_size=6),
}


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON document."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(place for key, part in inner for place in places(part, (*path, key)))]


def edited(draw: st.DrawFn, tree: Any) -> Any:
    """A document with another value, or none, in one place."""
    path = draw(st.sampled_from(places(tree)))
    if not path:
        return draw(TREES)
    above = tree
    for key in path[:-1]:
        above = above[key]
    if draw(st.integers(0, 5)):
        above[path[-1]] = draw(SHAPES.get(path[-1], PLAIN) | TREES)
    else:
        del above[path[-1]]
    return tree


def torn(draw: st.DrawFn, text: bytes) -> bytes:
    """A file with bytes missing, doubled or of another kind."""
    i, j = sorted(draw(st.integers(0, len(text))) for _ in range(2))
    between = draw(st.sampled_from([b"", b"", b"\n", b"\xff", b"\x00", b"[" * 5000, b'{"a":' * 5000, text[i:j] * 2]))
    return text[:i] + between + text[j:]


class Tags(HTMLParser):
    """The tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.more: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.more += [name for name, _ in attrs if name.startswith("on")]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """The files of a run with neighbours, and of one with a server."""
    folder = tmp_path_factory.mktemp("good")
    saved(folder / "data.npz")
    base = ["--dataset", "npz", "--data-dir", str(folder / "data.npz"), "--partition", "iid", "--nodes", "6"]
    found = {}
    for method, more in {"dfedavg": ["--degree", "3", "--epochs", "1"], "fedavg": []}.items():
        words = ["run", method, *base, "--hidden", "4", "--rounds", "3", *more, "--out", str(folder / method)]
        assert cli.main(words) == 0
        lines = (folder / method / "rounds.jsonl").read_text().splitlines()
        found[method] = [
            json.loads((folder / method / "manifest.json").read_text()),
            [json.loads(line) for line in lines],
        ]
    return found


@given(st.data())
@settings(max_examples=2000, suppress_health_check=list(HealthCheck))
def test_a_report_of_an_edited_run_is_a_page_or_says_what_is_wrong(
    tmp_path: Path, good: dict[str, list[Any]], capsys: pytest.CaptureFixture[str], data: st.DataObject
) -> None:
    for method, whole in good.items():
        manifest, rounds = json.loads(json.dumps(whole))
        for _ in range(data.draw(st.integers(0, 2))):
            manifest = edited(data.draw, manifest)
        if data.draw(st.booleans()):
            rounds = edited(data.draw, rounds)
        lines = rounds if isinstance(rounds, list) else [rounds]
        files = {
            "manifest.json": json.dumps(manifest).encode(),
            "rounds.jsonl": "".join(json.dumps(row) + "\n" for row in lines).encode(),
        }
        (tmp_path / "runs" / method).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            text = torn(data.draw, text) if not data.draw(st.integers(0, 7)) else text
            (tmp_path / "runs" / method / name).write_bytes(text)
    out = tmp_path / "page.html"
    out.unlink(missing_ok=True)
    target = data.draw(st.sampled_from([[], [], ["--target", "0.5"], ["--target", "1e-300"]]))
    asked = data.draw(st.sampled_from([["runs"], ["runs/dfedavg"], ["runs/dfedavg", "runs/fedavg"], ["runs/fedavg"]]))
    assert told(["report", *(str(tmp_path / path) for path in asked), *target, "--out", str(out)], capsys) == ""
    if out.exists():
        page, tags = out.read_text(encoding="utf-8"), Tags()
        tags.feed(page)
        assert not {"script", "b", "iframe", "img"} & set(tags.found) and not tags.more
