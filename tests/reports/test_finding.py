"""The sentence says what the records say, whoever wins and whoever fails."""

from __future__ import annotations

from fedtangent.reports import records
from fedtangent.reports.finding import finding
from tests.reports.folders import Run

FAST, SLOW, NEVER = [0.5, 0.86], [0.3, 0.4, 0.6, 0.8, 0.87], [0.3, 0.5, 0.78]


def said(runs: list[records.Record], target: float | None = 0.85) -> str:
    return finding(records.groups(runs), records.measure(runs), target)


def test_the_faster_method_and_its_price(run: Run) -> None:
    runs = [run("dfedavg", accuracies=SLOW, round_bytes=100), run("ntkdfl", accuracies=FAST, round_bytes=3500)]
    assert said(runs) == (
        "ntkdfl reaches 0.85 in 2 rounds, dfedavg in 5; on the way there ntkdfl sends 14 times the bytes of dfedavg."
    )


def test_a_method_that_is_faster_and_cheaper(run: Run) -> None:
    runs = [run("dfedavg", accuracies=SLOW, round_bytes=100), run("ntkdfl", accuracies=FAST, round_bytes=100)]
    assert said(runs).endswith("ntkdfl sends 2.5 times fewer bytes than dfedavg.")


def test_equal_prices(run: Run) -> None:
    runs = [run("dfedavg", accuracies=SLOW, round_bytes=200), run("ntkdfl", accuracies=FAST, round_bytes=500)]
    assert said(runs).endswith("ntkdfl sends about as many bytes as dfedavg.")


def test_a_method_that_does_not_get_there_is_named(run: Run) -> None:
    runs = [run("dfedavg", accuracies=NEVER), run("ntkdfl", accuracies=FAST), run("central", accuracies=[0.9])]
    assert said(runs) == "ntkdfl reaches 0.85 in 2 rounds; dfedavg does not."
    runs.append(run("dpsgd", accuracies=NEVER))
    assert said(runs) == "ntkdfl reaches 0.85 in 2 rounds; dfedavg and dpsgd do not."


def test_runs_of_different_data_are_not_compared(run: Run) -> None:
    here = run("ntkdfl", accuracies=FAST, experiment={"dataset": "mnist"})
    told = "are of different data, so that no accuracy, round or byte of one can be held against another's."
    assert said([here, run("dfedavg", accuracies=SLOW)]) == (f"ntkdfl dataset=mnist and dfedavg dataset=digits {told}")
    of_table = {"dataset": "patients", "dataset_options": {"label": "outcome", "scale": False}}
    one = run("ntkdfl", accuracies=FAST, experiment=of_table)
    other = run(
        "dfedavg", accuracies=SLOW, experiment={**of_table, "dataset_options": {"label": "stage", "scale": False}}
    )
    assert said([one, other]).endswith(told)
    scaled = run(
        "dfedavg", accuracies=SLOW, experiment={**of_table, "dataset_options": {"label": "outcome", "scale": True}}
    )
    assert "reaches 0.85 in 2 rounds" in said([one, scaled])


def test_nobody_gets_there(run: Run) -> None:
    runs = [run("dfedavg", accuracies=NEVER), run("ntkdfl", accuracies=[0.81, 0.8])]
    assert said(runs) == ("No method reaches 0.85: the highest accuracy of ntkdfl is 0.810, that of dfedavg 0.780.")
    assert said(runs[:1]) == "dfedavg never reaches 0.85: the highest accuracy of dfedavg is 0.780."


def test_some_seeds_get_there(run: Run) -> None:
    runs = [run("dfedavg", seed, accuracies=track) for seed, track in enumerate((FAST, NEVER))]
    runs.append(run("ntkdfl", accuracies=SLOW))
    assert said(runs).startswith("ntkdfl reaches 0.85 in 5 rounds, dfedavg in 2 (with 1 of 2 seeds)")


def test_one_round_is_singular_and_a_mean_has_a_decimal(run: Run) -> None:
    assert said([run(accuracies=[0.9])]) == "dfedavg reaches 0.85 in 1 round."
    runs = [run(seed=seed, accuracies=track) for seed, track in enumerate((FAST, SLOW))]
    assert said(runs) == "dfedavg reaches 0.85 in 3.5 rounds."


def test_more_methods_than_a_sentence_can_hold(run: Run) -> None:
    runs = [run(f"method{i}", accuracies=[0.2] * i + [0.9]) for i in range(7)]
    assert "method3 in 4, and 3 more later" in said(runs)


def test_without_a_target_or_a_round(run: Run) -> None:
    assert said([run(accuracies=[0.02])], None) == "The highest accuracy of dfedavg is 0.020."
    assert said([run(accuracies=[float("nan")])], None) == "No run has a finite accuracy."
    empty = run("ntkdfl")
    empty.rounds.clear()
    assert said([empty]) == "No round has been finished yet."


def test_a_regression(run: Run) -> None:
    assert said([run(kind="loss", rounds=20)], 1.0).startswith("dfedavg reaches a loss of 1 in")


def test_only_references(run: Run) -> None:
    assert said([run("central", accuracies=FAST), run("local", accuracies=NEVER)]) == (
        "central reaches 0.85 in 2 rounds; local does not."
    )
