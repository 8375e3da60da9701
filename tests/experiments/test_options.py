"""Options are read off signatures and docstrings, and read from texts by their types."""

import types
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from fedtangent.experiments import options
from fedtangent.experiments.options import REQUIRED, Option
from fedtangent.training import losses


def method(
    task: int,
    *,
    lr: float = 0.1,
    steps: int,
    times: Sequence[int] = (1, 2),
    rate: float | None = None,
    kernel: Literal["trace", "full"] = "trace",
    fast: bool = False,
) -> None:
    """A method.

    Args:
        task: Not an option.
        lr: Step size: how far
            a step goes.
        steps: How many.

    Raises:
        ValueError: Never.
    """


def bare(*, fast=True, sizes=(3, 4), lr=1):  # type: ignore[no-untyped-def]
    pass


def test_keyword_only_parameters_with_their_help() -> None:
    found = options.options(method)
    assert list(found) == ["lr", "steps", "times", "rate", "kernel", "fast"]
    assert found["lr"] == Option("lr", float, 0.1, "Step size: how far a step goes.")
    assert found["steps"] == Option("steps", int, REQUIRED, "How many.")
    assert found["fast"].help == ""


def test_without_annotations_the_defaults_tell() -> None:
    found = options.options(bare)
    read = {name: options.parsed(found[name], text) for name, text in (("fast", "false"), ("sizes", "5,6"))}
    assert read == {"fast": False, "sizes": (5, 6)}
    assert options.parsed(found["lr"], "0.5") == 0.5
    assert options.options(partial(bare, lr=2))["lr"].default == 2


def test_an_annotation_that_only_its_author_can_read() -> None:
    def own(*, lr: "Unknown" = 3) -> None: ...  # type: ignore[name-defined]

    assert options.parsed(options.options(own)["lr"], "4") == 4


def test_defaults_fill_what_is_not_given() -> None:
    assert options.resolved("it", method, {"steps": 5, "lr": 2.0}) == {
        "lr": 2.0, "steps": 5, "times": (1, 2), "rate": None, "kernel": "trace", "fast": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stesp": 1}, r"^`stesp` must be an option of it; got an unknown name. Did you mean 'steps'\?$"),
        (
            {"zz": 1},
            r"^`zz` must be an option of it; .*Drop it, or choose one of lr, steps, times, rate, kernel, fast.$",
        ),
        ({}, r"^`steps` must be given for it; got nothing. How many.$"),
    ],
)
def test_unknown_and_missing_options(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options.resolved("it", method, given)


def test_where_there_are_none() -> None:
    assert (
        options.unknown("a", {}, "an option") == "`a` must be an option; got an unknown name. Drop it: there are none."
    )


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (int, "3", 3),
        (float, "3", 3.0),
        (bool, "True", True),
        (str, "3", "3"),
        (int | None, "None", None),
        (int | str, "x", "x"),
        (Any, "2.5", 2.5),
        (tuple[int, ...], "3, 4,", (3, 4)),
        (Sequence[float], "1e-3", (0.001,)),
        (Literal["trace", "full"], "full", "full"),
        (Literal[1, 2], "2", 2),
        (str | Callable[..., Any] | None, "none", None),
    ],
)
def test_texts_are_read_by_type(kind: Any, text: str, value: Any) -> None:
    found = options.parsed(Option("a", kind, REQUIRED, ""), text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("kind", [dict, bytes, complex, Callable[..., Any], types.SimpleNamespace])
def test_a_type_that_no_text_stands_for(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"^`a` must be given from Python, since no text stands for its type; got '3'"):
        options.parsed(Option("a", kind, None, ""), "3")


@pytest.mark.parametrize(
    ("kind", "text", "rule"),
    [
        (int, "3.5", "an integer"),
        (float, "x", "a number"),
        (bool, "1", "true or false"),
        (float | None, "x", "a number or none"),
        (tuple[int, ...], "3,x", "values with commas between them, each an integer"),
        (Literal["trace", "full"], "half", "one of trace, full"),
    ],
)
def test_a_text_of_another_type(kind: Any, text: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rf"^`a` must be {rule}; got '{text}'. Give such a value.$"):
        options.parsed(Option("a", kind, REQUIRED, ""), text)


def test_values_as_json_holds_them() -> None:
    tree = {"a": (1, [2.5, None]), "b": Path("some/where.npz"), "c": losses.squared, "d": print, "e": object()}
    assert options.plain(tree) == {"a": [1, [2.5, None]], "b": "where.npz", "c": "squared", "d": "print", "e": "object"}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lr", "0.1", r"^`lr` must be a number; got '0\.1'\. Give such a value\.$"),
        ("lr", None, r"^`lr` must be a number; got None\. "),
        ("lr", True, r"^`lr` must be a number; got True\. "),
        ("lr", [0.1], r"^`lr` must be a number; got \[0\.1\]\. "),
        ("steps", 1.5, r"^`steps` must be an integer; got 1\.5\. "),
        ("steps", None, r"^`steps` must be an integer; got None\. "),
        ("rate", "fast", r"^`rate` must be a number or none; got 'fast'\. "),
        ("fast", 1, r"^`fast` must be true or false; got 1\. "),
    ],
)
def test_values_from_python_are_of_the_annotated_type(name: str, value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        options.resolved("method", method, {"steps": 3, name: value})


def test_single_numbers_of_numpy_and_torch_are_numbers_of_python() -> None:
    given = {"lr": np.float32(0.5), "steps": torch.tensor(3), "rate": np.array(2), "fast": np.True_}
    found = options.resolved("method", method, given)
    assert {name: found[name] for name in given} == {"lr": 0.5, "steps": 3, "rate": 2, "fast": True}
    assert {name: type(found[name]) for name in given} == {"lr": float, "steps": int, "rate": int, "fast": bool}


def test_a_path_is_read_and_its_home_put_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    option = Option("where", Path | None, None, "")
    assert options.parsed(option, "~/a b") == Path("/home/me/a b")
    assert options.parsed(option, "none") is None


SEVERAL = "`times` must be values with commas between them, each an integer; got {}. Give a list of them from Python."


@pytest.mark.parametrize("given", [[3, 4], (3, 4), range(3, 5), np.array([3, 4]), torch.tensor([3, 4])])
def test_several_values_are_a_tuple_of_pythons(given: Any) -> None:
    found = options.resolved("it", method, {"steps": 1, "times": given})["times"]
    assert found == (3, 4) and {*map(type, found)} == {int}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            5,
            SEVERAL.format("5"),
        ),
        (
            "5,6",
            SEVERAL.format("'5,6'"),
        ),
        (
            {5},
            SEVERAL.format("{5}"),
        ),
        (
            None,
            SEVERAL.format("None"),
        ),
        ([5, "6"], "`times[1]` must be an integer; got '6'. Give such a value."),
        ([[5]], "`times[0]` must be an integer; got [5]. Give such a value."),
    ],
)
def test_what_is_not_several_values(given: Any, message: str) -> None:
    with pytest.raises(TypeError) as found:
        options.resolved("it", method, {"steps": 1, "times": given})
    assert str(found.value) == message


def test_a_list_is_one_of_several_things() -> None:
    def own(*, who: Sequence[int] | None = None, pair: tuple[int, str] = (1, "a"), sizes: Any = 3) -> None: ...

    given = {"who": [1], "pair": (2, "b"), "sizes": {4}}
    assert options.resolved("it", own, given) == {**given, "who": (1,)}
    assert options.resolved("it", own, {"who": None})["who"] is None
