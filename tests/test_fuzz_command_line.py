"""2,000 command lines with something wrong in them: each is a run, or one sentence, and none takes long."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedtangent import catalog, cli
from fedtangent.experiments.experiment import Experiment, choices
from fedtangent.experiments.options import Option, options
from fedtangent.experiments.parts import PARTS
from tests.experiments.tiny import OPTIONS, TALKING, saved

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

PATIENCE_S = 20
# Work that is asked for in so many words is no fault: these counts stay small.
COUNTS = {"rounds", "epochs", "steps", "cycles", "seeds", "warm_up", "rounds_per_group"}
SMALL = ["0", "1", "2", "-1", "3", "7", "0.5", "0.01", "1e-9", "-0.5", "1e0", "100"]
HUGE = [str(10**12), str(-(10**12)), str(2**63 - 1), str(2**63), "9" * 300, "9" * 5000]
HUGE += ["1e300", "1e-320", "1e400", "1e18", "nan", "-nan", "inf", "-inf", "1e38"]
STRANGE = [
    "",
    " ",
    ",",
    ",,",
    "+1",
    "1_0",
    "0x10",
    "1e",
    "--",
    "-",
    "=",
    "'",
    '"',
    "$HOME",
    "true",
    "false",
    "none",
    "None",
]
STRANGE += ["\u6a21\u578b", "\u0663", "\x00", "\x1b]0;x\x07", "\udcff", "[/x]", "a b", "{}", "[]", "/", ".", "..", "~"]
STRANGE += ["/dev/null", "absent.npz", "absent.json", "absent.py", "a folder/a file.npz", "a folder", "x" * 3000]
STRANGE += ["cuda", "cuda:7", "meta", "float64", "float16", "squared", "cross_entropy", "digits", "torch_dataset"]
NAMES = {folder: catalog.names(folder) for folder in ("methods", "models", "partitions", "topologies", "engines")}
NAMED = sorted(name for names in NAMES.values() for name in names)
DATASETS = ["digits", "npz", "torch_dataset", "cifar10", "heart_disease", "agnews"]  # the others may ask the network


@st.composite
def values(draw: st.DrawFn, option: Option) -> str:
    """A text that often is of the option's type, and seldom a good value."""
    kind, few = str(option.kind), option.name in COUNTS
    if option.name in ("dataset", "data_dir"):
        return draw(st.sampled_from([*DATASETS, *STRANGE]))
    if not draw(st.integers(0, 5)) or not any(word in kind for word in ("int", "float", "Literal")):
        return draw(st.sampled_from([*SMALL, *STRANGE, *NAMED]))
    if "Literal" in kind:
        members = [str(one) for member in (option.kind, *get_args(option.kind)) for one in get_args(member)]
        return draw(st.sampled_from([*members, *STRANGE[:5]]))
    pool = st.sampled_from(SMALL if few else [*SMALL, *SMALL, *HUGE])
    return (
        ",".join(draw(st.lists(pool, min_size=1, max_size=4))) if "uple" in kind or "Sequence" in kind else draw(pool)
    )


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A short run, changed; or the words of another command."""
    if not draw(st.integers(0, 19)):
        first = draw(st.sampled_from(["run", "report", "list", "rnu", "", "--version", "-h", "\x00", "fedavg"]))
        return [first, *draw(st.lists(st.sampled_from([*STRANGE, *SMALL, "--out", "--target", "--help"]), max_size=4))]
    method = draw(st.sampled_from(NAMES["methods"]))
    chosen = {"model": draw(st.sampled_from(["mlp", "mlp", "linear"])), "dataset": "npz"}
    chosen["partition"] = draw(st.sampled_from(sorted(set(NAMES["partitions"]) - {"index_file", "natural"})))
    if method in TALKING:
        chosen["topology"] = draw(st.sampled_from(NAMES["topologies"]))
    given = {"nodes": 5, "rounds": 1, "data_dir": "a folder/data set.npz", **chosen, **OPTIONS.get(method, {})}
    if chosen["model"] == "mlp":
        given["hidden"] = 4
    if chosen.get("topology") in ("regular", "small_world"):
        given["degree"] = 2
    words = ["run", method]
    words += [word for name, value in given.items() for word in (f"--{name}", _text(value))]
    known: dict[str, Any] = {**options(cli.run), **options(Experiment)}
    hosted = {"host": given["host"]} if "host" in given else {}
    known |= {name: owners[0][1] for name, owners in choices(method, **chosen, **hosted).items()}
    for name in (
        "method",
        "ranks",
        *(kind.options for kind in PARTS.values()),
    ):  # ranks are processes of their own, which take seconds
        known.pop(name)
    for _ in range(draw(st.integers(1, 3))):
        option = known[draw(st.sampled_from(sorted(known)))]
        value = draw(values(option))
        words += [f"--{option.name}={value}"] if draw(st.booleans()) else [f"--{option.name}", value]
    if not draw(st.integers(0, 9)):  # a word less, twice, or in another place
        i, j = (draw(st.integers(1, len(words) - 1)) for _ in range(2))
        match draw(st.sampled_from(["drop", "double", "swap"])):
            case "drop":
                del words[i]
            case "double":
                words.insert(j, words[i])
            case "swap":
                words[i], words[j] = words[j], words[i]
    return words


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


class TooLong(BaseException):
    """Not an error that the command line would turn into a sentence."""


@contextmanager
def patience() -> Iterator[None]:
    """Ends what takes longer."""

    def end(*_: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(PATIENCE_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is wrong with the way in which a command line ended; nothing where that is well."""
    try:
        with patience():
            code = cli.main(words)
    except SystemExit as end:  # after --help
        code = -1 if end.code else 0
    err = capsys.readouterr().err
    if code == 0:
        return ""
    said = err.splitlines()[-1:]
    whole = code == 2 and said and said[0].startswith("fedtangent: ") and len(said[0]) < 10_000
    steers = any(ord(letter) < 32 or 126 < ord(letter) < 160 for letter in "".join(said))
    return "" if whole and not steers else f"exit code {code}, {said}"


@given(command_lines())
@settings(max_examples=2000, suppress_health_check=list(HealthCheck))
def test_a_command_line_runs_or_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if not Path("a folder").exists():
        Path("a folder").mkdir()
        saved("a folder/data set.npz")
    assert told(words, capsys) == ""
