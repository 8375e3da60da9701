"""The GPU record of benchmarks/, on a CPU: what it keeps when steps fail, and all of it in miniature."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
STEPS = """
import os, signal, time

def good(settings, tell):
    tell({"kind": "time", "what": "a", "seconds": 0.5, "peak_gib": 1.0, "target": 0.4})

def fails(settings, tell):
    tell({"kind": "check", "what": "b", "held": True, "told": None})
    raise ValueError("`b` must be c; got d. Do e.\\nAnd more.")

def slow(settings, tell):
    tell({"kind": "check", "what": "before", "held": False, "told": "so"})
    try:
        while True:
            time.sleep(0.01)
    except Exception:  # that it is stopped is no failure of its own
        tell({"kind": "check", "what": "caught", "held": False, "told": None})

def deaf(settings, tell):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    while True:
        time.sleep(0.01)

def dies(settings, tell):
    os._exit(3)

def process(settings, tell):
    tell({"kind": "number", "what": "process", "value": os.getpid()})
"""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "some_steps.py").write_text(STEPS)
    import gpu

    return gpu


@pytest.mark.slow
def test_a_step_that_fails_or_is_stopped_keeps_its_rows_and_does_not_end_the_rest(
    gpu: ModuleType, tmp_path: Path
) -> None:
    import some_steps
    from gpu_problems import Settings
    from within_limits import Step

    names = ["good", "fails", "slow", "process", "deaf", "dies", "process"]
    steps = [Step(name, getattr(some_steps, name), 0.5 if name in ("slow", "deaf") else 20) for name in names]
    lines: list[str] = []
    path = tmp_path / "record.json"
    record = gpu.recorded(steps, Settings("cpu", True), path, 2, lines.append, grace_s=0.5)
    assert json.loads(path.read_text()) == record
    ends = [(step["step"], step["state"], step["why"]) for step in record["steps"]]
    assert ends == [
        ("good", "done", None),
        ("fails", "failed", "ValueError: `b` must be c; got d. Do e."),
        ("slow", "stopped", "Its limit of 0.5 s was over."),
        ("process", "done", None),
        ("deaf", "stopped", "Its limit of 0.5 s was over, and its process had to be ended."),
        ("dies", "failed", "The process ended with exit code 3."),
        ("process", "done", None),
    ]
    assert [[row["what"] for row in step["rows"]] for step in record["steps"][:3]] == [["a"], ["b"], ["before"]]
    first, last = (step["rows"][0]["value"] for step in record["steps"] if step["step"] == "process")
    assert first != last  # a new process after the one that was ended and the one that died
    assert record["steps"][0]["peak_gib"] > 0.1  # PyTorch itself
    assert [line.split("] ")[1] for line in lines[:3]] == [
        "good: a 0.5 s (target 0.4 s); done",
        "fails: b: held; failed: ValueError: `b` must be c; got d. Do e.",
        "slow: before: NOT HELD; stopped: Its limit of 0.5 s was over.",
    ]


def test_what_comes_after_the_minutes_is_left_out(gpu: ModuleType, tmp_path: Path) -> None:
    import some_steps
    from gpu_problems import Settings
    from within_limits import Step

    steps = [Step("good", some_steps.good, 20)]
    record = gpu.recorded(steps, Settings("cpu", True), tmp_path / "record.json", 0.04, lambda line: None)
    assert record["steps"] == [
        {"step": "good", "state": "left out", "why": "The 0.04 minutes were over.", "rows": []},
    ]


def test_the_tables_hold_what_was_recorded(gpu: ModuleType) -> None:
    def rounds(what: str, *seconds: float, **more: Any) -> list[dict[str, Any]]:
        return [
            {"kind": "round", "what": what, "round": k, "seconds": taken, "peak_gib": k / 4, **more}
            for k, taken in enumerate(seconds, start=1)
        ]

    def accuracies(what: str, seed: int, *values: float) -> list[dict[str, Any]]:
        return [
            {"kind": "accuracy", "what": what, "seed": seed, "round": k, "accuracy": value}
            for k, value in enumerate(values, start=1)
        ]

    rows = [
        {"kind": "data", "what": "cifar10", "source": "synthetic", "rows": [15_000, 4_000]},
        {"kind": "number", "what": "TFLOP/s", "value": 51.23},
        *rounds("m", 9.0, 0.3, 0.5, 0.4, target=0.4),
        *rounds("one", 2.0, target=1.0),
        {"kind": "time", "what": "kernel", "seconds": 0.00251, "target": 0.003, "peak_gib": 2.5},
        {"kind": "check", "what": "law", "held": False, "told": "a | b"},
        *accuracies("line", 0, 0.5, 0.75, 0.7),
        *accuracies("line", 1, 0.25, 0.5),
    ]
    record = {
        "device": "a card",
        "torch": "2.11.0",
        "python": "3.12.1",
        "seconds": 471.2,
        "miniature": False,
        "steps": [
            {"step": "all", "state": "done", "why": None, "rows": rows},
            {"step": "late", "state": "left out", "why": "The 8 minutes were over.", "rows": []},
        ],
    }
    assert gpu.rendered(record) == (
        "a card, PyTorch 2.11.0, Python 3.12.1; 471 s. cifar10: synthetic, 15,000 and 4,000 images. 51.2 TFLOP/s.\n\n"
        "| what | measured | target | reached | GiB |\n| --- | --- | --- | --- | --- |\n"
        "| m | 0.4 s a round | 0.4 s | yes | 1 |\n"
        "| one | 2 s a round (the first) | 1 s | no | 0.25 |\n"
        "| kernel | 0.00251 s | 0.003 s | yes | 2.5 |\n\n"
        "| check | held | what was said |\n| --- | --- | --- |\n| law | no | a / b |\n\n"
        "| accuracy after round | seeds | 1 | 2 | 3 | last round | best |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
        "| line | 2 | 0.3750 | 0.6250 | 0.7000 | 3 | 0.7500 |\n\n"
        "| step | ended | why |\n| --- | --- | --- |\n| late | left out | The 8 minutes were over. |\n"
    )


def test_the_images_are_read_where_they_are_there(gpu: ModuleType, tmp_path: Path) -> None:
    from gpu_problems import Settings, cifar

    rng = np.random.default_rng(0)
    x, y = rng.integers(256, size=(7, 3, 32, 32), dtype=np.uint8), rng.integers(10, size=7)
    np.savez(tmp_path / "cifar10.npz", x_train=x, y_train=y, x_test=x[:5], y_test=y[:5])
    data, source = cifar(Settings("cpu", False, str(tmp_path)))
    assert (source, data.y_train.tolist(), data.x_test.shape) == ("read", y.tolist(), (5, 3, 32, 32))
    data, source = cifar(Settings("cpu", True, str(tmp_path)))  # in miniature all is synthetic
    assert (source, data.x_train.shape, data.x_test.shape) == ("synthetic", (60, 3, 32, 32), (20, 3, 32, 32))


OTHERS = ("matplotlib", "sklearn", "pandas", "tensorboard")  # installed here, and not in the benchmark's list


def _command(
    tmp_path: Path, *words: str, without: tuple[str, ...] = (*OTHERS, "torchvision")
) -> subprocess.CompletedProcess[str]:
    """The benchmark from the checkout, on a Python that lacks some packages."""
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nfor name in {without}:\n    sys.modules[name] = None\n")
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), *words],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{tmp_path}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )


@pytest.mark.slow
def test_a_step_of_the_command_in_miniature(tmp_path: Path) -> None:
    done = _command(tmp_path, "--device", "cpu", "--miniature", "--only", "784-100-10", "--out", "its.json")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "its.json").read_text())
    assert [(step["step"], step["state"]) for step in record["steps"]] == [("kernels of 784-100-10", "done")]
    assert [row["what"] for row in record["steps"][0]["rows"]] == [
        f"kernel of 784-100-10, {count} samples, {kind}" for count in (6, 9) for kind in ("full", "trace")
    ]
    assert "784-100-10, 9 samples, trace" in done.stdout.splitlines()[0]  # the line of the step
    table = _command(tmp_path, "--table", "its.json")
    assert done.stdout.endswith(f"\n\n{table.stdout}")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--only", "nothing", "--device", "cpu"), "`--only` must be words in a step's name; got 'nothing'."),
        ((), "`--device` must be one that this machine has; got cuda without a GPU. Use --device cpu --miniature."),
    ],
)
def test_a_wrong_word_is_one_sentence(
    gpu: ModuleType, words: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    if not words and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr(sys, "argv", ["gpu.py", *words])
    with pytest.raises(SystemExit) as end:
        gpu.main()
    assert str(end.value).startswith(told)
    assert len(str(end.value).splitlines()) == 1


def test_make_runs_it_from_the_checkout() -> None:
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    words = ["make", "--dry-run", "--no-print-directory", "bench-gpu", "PYTHON=python3.12", "DATA=images"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "PYTHONPATH=src python3.12 benchmarks/gpu.py --out gpu.json --data-dir images"


@pytest.mark.slow
def test_all_of_it_in_miniature(tmp_path: Path) -> None:
    done = _command(tmp_path, "--device", "cpu", "--miniature", "--minutes", "30", "--out", "its.json", without=OTHERS)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "its.json").read_text())
    assert [(step["step"], step["why"]) for step in record["steps"] if step["state"] != "done"] == []
    found = {step["step"]: step["rows"] for step in record["steps"]}
    assert list(found)[:5] == ["the machine", "ntkdfl", "dfedkfac", "fedkfac", "evaluation of the nodes"]
    assert list(found)[-1] == "FedPart's first table"
    assert all(found.values())
    assert [row["source"] for row in found["the machine"] if row["kind"] == "data"] == ["synthetic"] * 2
    rows = [row for its in found.values() for row in its]
    assert all(row["held"] for row in rows if row["kind"] == "check")
    assert all(row["peak_gib"] > 0 and row["seconds"] > 0 for row in rows if row["kind"] in ("round", "time"))
    table = record["steps"][-1]["rows"]
    assert [row["what"].split()[-1] for row in table] == ["full", "partial"]
    assert len(done.stdout.splitlines()) > len(found)
