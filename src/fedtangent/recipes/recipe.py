"""A recipe as a value, and running one: its rows are recorded as they are found, its table and figure at the end."""

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from rich.table import Table

from fedtangent import catalog
from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.experiments import lock, rows, same, sources
from fedtangent.experiments.options import Option, options, resolved
from fedtangent.experiments.rows import Row
from fedtangent.own import called
from fedtangent.reports import recipe_page

PAGE, PICTURE = "figure.html", "figure.png"


class Recipe(NamedTuple):
    """What a file of the folder `recipes` defines.

    Attributes:
        name: The file's.
        summary: The first sentence of the file's docstring.
        measure: Yields rows; its keyword-only parameters are the recipe's options. A first parameter, where it has
            one, takes the rows that an interrupted run has left, and only the others are yielded.
        table: rows -> the rows of the summary that is printed.
        figure: rows -> their figure.
    """

    name: str
    summary: str
    measure: Callable[..., Iterable[Row]]
    table: Callable[[list[Row]], list[Row]]
    figure: Callable[[list[Row]], Figure]

    @property
    def options(self) -> dict[str, Option]:
        """What can be chosen."""
        return options(self.measure)

    @property
    def resumes(self) -> bool:
        """Whether it goes on where it was stopped."""
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return any(parameter.kind in kinds for parameter in inspect.signature(self.measure).parameters.values())


class Outcome(NamedTuple):
    """What a recipe found.

    Attributes:
        rows: All that was measured.
        table: Its summary, for the terminal.
        measured: Whether any of it was measured now, and not before.
    """

    rows: list[Row]
    table: Table
    measured: bool


def load(name: str) -> Recipe:
    """The recipe of this name, or of a user's own file, whose path ends in .py.

    Raises:
        ValueError: No such recipe, or a file that defines something else.
    """
    measure = catalog.load("recipes", name)
    module = sys.modules[measure.__module__]
    for part in ("table", "figure"):
        if not callable(getattr(module, part, None)):
            raise SettingError(f"`{name}` must define table(rows) and figure(rows); got no {part!r}. Add it.")
    if "out" in options(measure):
        raise SettingError(f"`{name}` must not have the option 'out', which is where to record. Name it otherwise.")
    return Recipe(Path(name).stem, catalog.summary("recipes", name), measure, module.table, module.figure)


def run(
    recipe: Recipe, given: Mapping[str, Any], folder: Path, on_row: Callable[[Row], None] = lambda row: None
) -> Outcome:
    """What the recipe finds with these options, recorded in the folder: manifest, rows, and the page of its figure.

    Rows that an earlier run has left there are kept: complete ones are only shown, others are gone on from where the
    recipe can.

    Raises:
        ValueError: Not the recipe's options, a folder that holds something else or that another process records in, or
            rows of another version or of the file before an edit.
        TypeError: A recipe whose rows are not flat.
        OSError: The folder cannot be written.
        KeyboardInterrupt: As it came, with a sentence about what is kept.
    """
    chosen = resolved(recipe.name, recipe.measure, given)
    own = rows.manifest(recipe.name, chosen) | {"source": sources.of_function(recipe.measure)}
    rows.there(folder, own)  # before a lock is laid there
    with lock.held(folder):
        before = rows.there(folder, own) or {}
        complete = before.get("complete") is True
        measured = rows.read(folder) if before and (complete or recipe.resumes) else []
        if not complete:
            if measured:
                same.check_versions(folder, before, own)
                same.check_source(folder, recipe.name, before.get("source"), own["source"])
            try:
                _measure(recipe, chosen, folder, own, measured, on_row)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(_kept(recipe, folder)) from None
        told = own | before if complete else own
        summary, drawn = called("table", recipe.table, "rows", measured), partial(_drawn, recipe)
        if not isinstance(summary, list) or not all(isinstance(row, dict) for row in summary):
            raise SettingTypeError(
                f"`table` must give a list of dicts; got {type(summary).__name__}. Return rows for a table."
            )
        recipe_page.write(folder / PAGE, recipe.summary, recipe.measure, told, measured, summary, drawn)
        recipe_page.picture(folder / PICTURE, measured, drawn)
    return Outcome(measured, recipe_page.terminal(summary), not complete)


def _drawn(recipe: Recipe, measured: list[Row]) -> Figure:
    figure = called("figure", recipe.figure, "rows", measured)
    if not isinstance(figure, Figure):
        raise SettingTypeError(f"`figure` must give a matplotlib Figure; got {type(figure).__name__}. Return one.")
    return figure


def _measure(
    recipe: Recipe,
    chosen: Mapping[str, Any],
    folder: Path,
    own: Mapping[str, Any],
    measured: list[Row],
    on_row: Callable[[Row], None],
) -> None:
    """Adds to `measured`, and to the folder, the rows that are missing."""
    begun, before = False, [list(measured)] if recipe.resumes else []
    found = called(recipe.name, recipe.measure, "rows" * recipe.resumes, *before, **chosen)
    if not isinstance(found, Iterable):
        raise SettingTypeError(f"`{recipe.name}` must yield rows; got {type(found).__name__}. Yield dict(name=value).")
    for row in found:
        rows.check(row, recipe.name)
        if not begun:  # not before: what the recipe refuses leaves no folder behind
            rows.begin(folder, own, measured)
            begun = True
        rows.append(folder, row)
        measured.append(row)
        on_row(row)
    if not measured:
        raise SettingError(f"`{recipe.name}` must yield at least one row; got none. Choose options that measure.")
    rows.begin(folder, {**own, "complete": True}, measured)


def _kept(recipe: Recipe, folder: Path) -> str:
    count = len(rows.read(folder))
    if not count:
        return "no row was measured yet"
    again = "goes on from there" if recipe.resumes else "begins anew"
    return f"{count:,} rows are kept in {folder}, and the same command {again}"
