"""Records are read as they were written, refused when damaged, and grouped by experiment."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fedtangent.reports import records
from tests.reports.folders import Run, folder


def test_a_record_holds_what_was_written(tmp_path: Path) -> None:
    path = folder(tmp_path, "ntkdfl", 3, rounds=5)
    record = records.read(path)
    assert record.folder == path
    assert record.experiment["seed"] == 3
    assert [row["round"] for row in record.rounds] == [1, 2, 3, 4, 5]
    assert record.rounds[-1]["sent_bytes"] == 5 * 1_234_567


def test_a_folder_of_text_is_accepted(tmp_path: Path) -> None:
    assert records.read(str(folder(tmp_path))).rounds


@pytest.mark.parametrize("gone", ["manifest.json", "rounds.jsonl"])
def test_a_folder_of_something_else_is_named(tmp_path: Path, gone: str) -> None:
    path = folder(tmp_path)
    (path / gone).unlink()
    with pytest.raises(ValueError, match=rf"`folder` must be a run's folder; got .*, which has no {gone}\. Give"):
        records.read(path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"experiment": {}}', '{"experiment": {"method": 7}}', "3"])
def test_a_damaged_manifest_is_named(tmp_path: Path, text: str) -> None:
    path = folder(tmp_path)
    (path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json must be JSON with an experiment and its method"):
        records.read(path)


@pytest.mark.parametrize("kept", [1, 7, 40])
def test_a_torn_last_line_is_dropped(tmp_path: Path, kept: int) -> None:
    path = folder(tmp_path, rounds=4)
    file = path / "rounds.jsonl"
    *whole, last = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(whole) + last[:kept])
    assert len(records.read(path).rounds) == 3


def test_a_last_line_that_lacks_only_its_break_is_kept(tmp_path: Path) -> None:
    path = folder(tmp_path, rounds=4)
    file = path / "rounds.jsonl"
    file.write_bytes(file.read_bytes().rstrip(b"\n"))
    assert len(records.read(path).rounds) == 4


def test_a_run_without_a_finished_round_is_a_record(tmp_path: Path) -> None:
    path = folder(tmp_path)
    (path / "rounds.jsonl").write_text("")
    assert records.read(path).rounds == []


GOOD = {"round": 2, "accuracy": 0.37, "loss": 1.3, "sent_bytes": 29, "seconds": 0.7}


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (b"{torn", "must be a JSON object; got '{torn'"),
        (b"\xff\xfe", "must be a JSON object"),
        (b"", "must be a JSON object"),
        (b"[1, 2]", "must be a JSON object"),
        (b"[" * 100_000 + b"]" * 100_000, "must be a JSON object"),
        (json.dumps({**GOOD, "sent_bytes": None}).encode(), "the numbers round, sent_bytes, seconds"),
        (json.dumps({**GOOD, "seconds": True}).encode(), "the numbers round, sent_bytes, seconds"),
        (json.dumps({**GOOD, "loss": "low"}).encode(), "loss is a number or null"),
        (json.dumps({**GOOD, "round": 1}).encode(), "a later round than the line before"),
        (json.dumps({**GOOD, "round": 0}).encode(), "a later round than the line before"),
    ],
)
def test_any_other_bad_line_is_named_with_file_and_number(tmp_path: Path, line: bytes, rule: str) -> None:
    path = folder(tmp_path, rounds=3)
    file = path / "rounds.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + line + b"\n" + lines[2])
    with pytest.raises(ValueError, match=rf"rounds\.jsonl, line 2, .*{re.escape(rule)}.*Resume the run"):
        records.read(path)


def test_rounds_and_bytes_to_a_target(run: Run) -> None:
    record = run(accuracies=[0.31, 0.62, 0.58, 0.71], round_bytes=1000)
    assert records.rounds_to(record, 0.6) == 2
    assert records.bytes_to(record, 0.6) == 2000
    assert records.rounds_to(record, 0.71) == 4
    assert records.rounds_to(record, 0.72) is None
    assert records.bytes_to(record, 0.72) is None


@pytest.mark.parametrize(("sent", "sends"), [([0, 0], False), ([7, 7, 7], False), ([7, 14], True), ([7], True)])
def test_a_method_sends_if_it_does_round_after_round(run: Run, sent: list[int], sends: bool) -> None:
    record = run("central", rounds=len(sent))
    for row, total in zip(record.rounds, sent, strict=True):
        row["sent_bytes"] = total
    assert records.groups([record])[0].sends == sends


def test_a_round_that_is_not_a_number_reaches_nothing(run: Run) -> None:
    record = run(accuracies=[float("nan"), 0.62])
    assert records.rounds_to(record, 0.05) == 2


def test_a_regression_reaches_a_loss_from_above(run: Run) -> None:
    record = run(kind="loss", rounds=20, speed=0.5)
    reached = records.rounds_to(record, 0.6)
    assert reached is not None
    assert record.rounds[reached - 1]["loss"] <= 0.6 < record.rounds[reached - 2]["loss"]


def test_the_measure_is_the_loss_where_there_is_no_accuracy(run: Run) -> None:
    assert records.measure([run(kind="loss")]) == "loss"
    assert records.measure([run()]) == "accuracy"


def test_regressions_and_classifications_are_not_compared(run: Run) -> None:
    with pytest.raises(ValueError, match=r"`records` must all have an accuracy, or none; got none in ntkdfl-1\."):
        records.measure([run(), run("ntkdfl", kind="loss")])


def test_runs_that_differ_only_in_their_seed_are_one_group(run: Run) -> None:
    found = records.groups([run(seed=0), run("ntkdfl", 0), run(seed=1), run("ntkdfl", 5)])
    assert [group.label for group in found] == ["dfedavg", "ntkdfl"]
    assert [[record.experiment["seed"] for record in group.records] for group in found] == [[0, 1], [0, 5]]


def test_a_label_holds_the_options_that_differ_within_its_method(run: Run) -> None:
    runs = [
        run("ntkdfl", options={"kernel": "full", "lr": 0.01}),
        run("ntkdfl", options={"kernel": "trace", "lr": 0.01}),
        run("dfedavg", options={"lr": 0.1}),
    ]
    assert [group.label for group in records.groups(runs)] == ["ntkdfl kernel=full", "ntkdfl kernel=trace", "dfedavg"]


def test_a_label_holds_the_task_when_the_tasks_differ(run: Run) -> None:
    runs = [run(), run("ntkdfl", experiment={"partition_options": {"alpha": 0.5}})]
    assert [group.label for group in records.groups(runs)] == ["dfedavg alpha=0.1", "ntkdfl alpha=0.5"]


def test_methods_without_a_topology_do_not_lengthen_the_labels(run: Run) -> None:
    assert [group.label for group in records.groups([run(), run("local"), run("central")])] == [
        "dfedavg",
        "local",
        "central",
    ]


def test_labels_are_never_the_same(run: Run) -> None:
    runs = [run(options={"decay": None}), run(options={})]
    labels = [group.label for group in records.groups(runs)]
    assert labels == ["dfedavg", "dfedavg (2)"]


def test_the_same_run_twice_is_refused(run: Run) -> None:
    with pytest.raises(ValueError, match=r"`records` must hold .* once; got dfedavg with seed 4 in .* Drop one"):
        records.groups([run(seed=4), run(seed=4)])


def test_nothing_to_report_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`records` must hold at least one run; got none\. Give"):
        records.groups([])


def test_hosts_are_told_apart_and_are_no_reason_to_tell_other_methods_apart(run: Run) -> None:
    one, two = ({"host": host, "host_options": {"lr": 0.1}} for host in ("fedavg", "moon"))
    found = records.groups([run("fedpart", experiment=one), run("fedpart", experiment=two), run("fedavg")])
    assert [group.label for group in found] == ["fedpart host=fedavg", "fedpart host=moon", "fedavg"]
