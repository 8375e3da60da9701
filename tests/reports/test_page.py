"""The page: complete, by itself, well formed, the same every time, and written all or not at all."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import re
import stat
import statistics
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fedtangent.reports import page, records
from tests.reports.folders import Run

VOID = {"meta", "br", "hr", "img", "input", "link"}
# What loads something when a page is opened; a link that must be clicked does not.
LOADING = ("src", "srcset", "poster", "action", "background")


class Checker(HTMLParser):
    """Records the tags left open, and whatever would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.images: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "svg" and found.get("aria-hidden") != "true":
            self.images.append(found)
        self.loads += [value or "" for key, value in attrs if key in LOADING]
        self.loads += [value or "" for key, value in attrs if "href" in key and not (value or "").startswith("#")]
        self.ids += [value or "" for key, value in attrs if key == "id"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    assert len(checker.ids) == len(set(checker.ids))
    assert all(image["role"] == "img" and image["aria-label"] for image in checker.images)
    return checker


def demo(run: Run, nodes: int = 10) -> list[records.Record]:
    speeds = {"ntkdfl": 0.5, "dfedavg": 0.2, "local": 0.9, "central": 0.7}
    return [
        run(method, seed, speed=speed, nodes=nodes, exposure="raw-equivalent" if method == "ntkdfl" else "aggregate")
        for method, speed in speeds.items()
        for seed in (0, 1)
    ]


def test_the_page_needs_nothing_else(run: Run) -> None:
    text = page.page(demo(run))
    checker = checked(text)
    assert not re.search(r"https?:|@import|<link|<iframe|import\(|fetch\(|(?<!data:)(?<!^)//[a-z]", text)
    (download,) = checker.loads
    assert download.startswith("data:text/csv;base64,")
    assert not re.search(r"url\((?!#)", text)


def test_no_script_runs_but_the_pages_own(run: Run) -> None:
    text = page.page(demo(run))
    held, own = re.findall(r"<script([^>]*)>(.*?)</script>", text, re.DOTALL)
    assert held[0] == ' type="application/json" id="answers"' and own[0] == ""
    digest = base64.b64encode(hashlib.sha256(own[1].encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
    assert f"content=\"{policy}; form-action 'none'\"" in text
    assert not re.search(r"<[^>]* on\w+=", text)


def test_the_answers_are_the_records(run: Run) -> None:
    runs = [run(seed=0), run(seed=1), run("central")]
    found = re.search(r'id="answers">(.*?)</script>', page.page(runs), re.DOTALL)
    assert found is not None
    told = json.loads(found[1])["figures"]["curve-round"]
    assert told["head"] == [f"round {k}" for k in range(1, 13)]
    for line, own in zip(told["lines"], ([0, 1], [2]), strict=True):
        tracks = [[row["accuracy"] for row in runs[i].rounds] for i in own]
        for k, text in enumerate(line["say"]):
            values = [track[k] for track in tracks]
            spread = f" \N{PLUS-MINUS SIGN} {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            assert text.startswith(f"{statistics.mean(values):.3f}{spread}, ")
    assert told["lines"][0]["say"][1].endswith(", 2.47 MB")


def test_what_the_script_reads_holds_no_markup(run: Run) -> None:
    text = page.page([run("</script><!-- <b>".replace("/", ":"), rounds=2)])
    found = re.search(r'id="answers">(.*?)</script>', text, re.DOTALL)
    assert found is not None and "<" not in found[1]
    assert json.loads(found[1])["figures"]["curve-round"]["lines"][0]["name"].startswith("<:script><!-- <b>")


def test_twelve_methods_three_seeds_and_three_hundred_nodes_are_below_two_megabytes(run: Run) -> None:
    rng = np.random.default_rng(0)
    runs = [
        run(f"method{i}", seed, nodes=300, rounds=40, node_accuracy=rng.random(300), class_accuracy=rng.random(10))
        for i in range(12)
        for seed in range(3)
    ]
    text = page.page(runs)
    checked(text)
    assert "12 methods on digits, 300 nodes" in text
    assert len(text.encode()) < 2_000_000


def test_the_page_has_its_parts(run: Run) -> None:
    text = page.page(demo(run), 0.8)
    assert len(checked(text).images) == 4
    for part in (
        "ntkdfl, dfedavg, local and central on digits, 10 nodes",
        "ntkdfl reaches 0.8 in",
        "Rounds to 0.8",
        "Against bytes sent",
        "local and central do not send round after round: horizontal lines at their last value.",
        "Partition dirichlet (alpha=0.1); topology regular (degree=4); model mlp (width=100); seeds 0, 1.",
        "Labels of the nodes",
        "Graph of round 1",
        '<span class="level">raw-equivalent</span>: who receives the messages can read the training inputs',
        '<span class="level">none</span>: nothing is sent',
        "partition_options.alpha",
        "versions.torch",
        "prefers-color-scheme: dark",
        "@media print",
    ):
        assert part in text


def test_the_same_records_give_the_same_bytes(run: Run) -> None:
    runs = demo(run)
    assert page.page(runs).encode() == page.page(runs).encode()


def test_three_hundred_nodes_fit(run: Run) -> None:
    text = page.page(demo(run, nodes=300))
    checked(text)
    assert "300 nodes and 600 edges" in text
    assert len(text.encode()) < 1_500_000


def test_the_download_holds_every_round(run: Run) -> None:
    runs = demo(run)
    found = re.search(r'href="data:text/csv;base64,([^"]*)"', page.page(runs))
    assert found is not None
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(found[1]).decode())))
    assert len(rows) == sum(len(record.rounds) for record in runs)
    assert float(rows[3]["accuracy"]) == runs[0].rounds[3]["accuracy"]
    assert (rows[3]["run"], rows[3]["seed"], rows[3]["round"]) == ("ntkdfl", "0", "4")


def test_too_many_rounds_are_only_in_the_download(run: Run) -> None:
    text = page.page([run(rounds=3001)])
    assert "The 3,001 rounds are too many to list here" in text and len(text) < 1_500_000


def test_a_regression_has_curves_of_its_loss_and_no_labels(run: Run) -> None:
    text = page.page([run(kind="loss"), run("ntkdfl", kind="loss")])
    assert len(checked(text).images) == 3
    assert '<h2 id="curves">Loss</h2>' in text and "Labels of the nodes" not in text


def test_runs_without_labels_and_graph_have_no_section_of_nodes(run: Run) -> None:
    assert 'id="nodes"' not in page.page([run(manifest={"labels": None, "edges": None})])


def test_different_partitions_are_shown_each(run: Run) -> None:
    runs = [run(), run(experiment={"partition_options": {"alpha": 0.5}})]
    text = page.page(runs)
    assert "Labels of the nodes in dfedavg alpha=0.1" in text and "Labels of the nodes in dfedavg alpha=0.5" in text
    assert text.count("Graph of round 1</h3>") == 1


def test_names_are_escaped(run: Run) -> None:
    text = page.page([run("<script>alert(1)<:script>", options={"note": '"><b>'}), run(options={"note": "&"})])
    checked(text)
    assert "<script>alert" not in text and "<b>" not in text


def test_many_methods_get_a_legend(run: Run) -> None:
    text = page.page([run(f"method{i}", rounds=3) for i in range(7)])
    checked(text)
    assert '<ul class="names">' in text


def test_an_unknown_and_a_missing_exposure_are_told(run: Run) -> None:
    text = page.page([run(exposure="sketchy"), run("fedavg", manifest={"exposure": None})])
    assert '<span class="level">sketchy</span>: this report does not know' in text
    assert '<span class="level">not recorded</span>' in text


def test_a_run_without_a_round_is_reported(run: Run) -> None:
    record = run()
    record.rounds.clear()
    text = page.page([record])
    checked(text)
    assert "No round has been finished yet." in text


def test_a_bad_target_is_refused(run: Run) -> None:
    with pytest.raises(ValueError, match=r"`target` must be above 0 and at most 1; got 85\."):
        page.page([run(rounds=2)], 85)


def test_no_path_of_the_machine_is_told(run: Run, tmp_path: Path) -> None:
    assert str(tmp_path) not in page.page([run()])


def test_the_file_is_the_page(run: Run, tmp_path: Path) -> None:
    runs, file = [run()], tmp_path / "report.html"
    page.write(runs, str(file), 0.5)
    assert file.read_text(encoding="utf-8") == page.page(runs, 0.5)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask


def test_a_failed_write_leaves_the_old_file_and_no_other(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "out" / "report.html"
    file.parent.mkdir()
    old = page.page([run("fedavg")])
    file.write_text(old)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        page.write([run()], file)
    assert [path.name for path in file.parent.iterdir()] == ["report.html"]
    assert file.read_text() == old


def test_the_folder_of_a_page_is_made(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "new" / "er" / "report.html"
    page.write([run(rounds=1)], file)
    assert file.read_text().startswith("<!doctype html>")


def test_a_place_that_cannot_be_written_is_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place, reason in ((tmp_path, "Is a directory"), (tmp_path / "file" / "page.html", "Not a directory|exists")):
        with pytest.raises(OSError, match=rf"^`out` must be a file that can be written; got '.*' \(.*({reason})"):
            page.write([run(rounds=1)], place)
    with pytest.raises(OSError, match=r"^`out` must be a file that can be written; got 'a\\x00b' \(.*null"):
        page.write([run(rounds=1)], "a\0b")


@pytest.mark.parametrize("held", [b"my notes", b"<!doctype html>\n<title>fedtangent report</title>", b"\xff\0"])
def test_a_file_that_is_no_report_is_kept(held: bytes, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_bytes(held)
    for write in (page.ready, lambda place: page.write([run(rounds=1)], place)):
        with pytest.raises(
            ValueError, match=r"^`out` must not be a file .*; got '.*report.html'. Name another by --out"
        ):
            write(file)
    assert file.read_bytes() == held


def test_an_earlier_report_and_an_empty_file_are_replaced(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.touch()
    for runs in ([run(rounds=1)], [run("ntkdfl", rounds=1)]):
        page.write(runs, file)
        assert file.read_text(encoding="utf-8") == page.page(runs)


def test_a_device_is_no_place_for_a_page(run: Run, tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    with pytest.raises(OSError, match=r"must be a file that can be written; got '.*pipe' \(Not a regular file\)"):
        page.write([run(rounds=1)], pipe)
    assert pipe.is_fifo()


def test_each_cell_tells_its_column_where_there_is_no_head(run: Run) -> None:
    """A phone shows the summary as lists, for which the style sheet takes the names from here."""
    text = page.page([run(seed=0), run(seed=1), run("ntkdfl")], 0.5)
    for title in ("Final accuracy", "Highest", "Rounds to 0.5", "Bytes in all", "Seconds a round"):
        assert text.count(f'data-label="{title}"') == 2
    assert "content: attr(data-label)" in text


def test_thousands_of_nodes_are_thinned_out_or_told(run: Run) -> None:
    labels = [[k % 3, 2, k % 2] for k in range(4000)]
    ring = [[k, k + 1] for k in range(3999)]
    text = page.page([run(experiment={"nodes": 4000}, manifest={"labels": labels, "edges": ring})])
    checked(text)
    assert "One node in 3 is drawn." in text and "3,999 edges; a node has 1 to 2 neighbours." in text
    assert len(text) < 1_500_000


def test_a_name_is_no_formula_in_a_table_calculator(run: Run) -> None:
    text = page.page([run("=1+1", rounds=1)])
    found = re.search(r'href="data:text/csv;base64,([^"]*)"', text)
    assert found is not None and "\n'=1+1,0," in base64.b64decode(found[1]).decode()
