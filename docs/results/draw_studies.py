"""The figures and tables of ntkdfl_studies.md from the records beside this file.

    python docs/results/draw_studies.py

`ntkdfl_studies_STUDY.jsonl` holds the rows of `fedtangent recipe ntkdfl_studies --study STUDY`; its figure is written
beside it.
"""

import math
from collections import Counter
from pathlib import Path
from typing import Any

from validation import lines

from fedtangent.recipes import ntkdfl_studies
from fedtangent.reports import recipe_page

HERE = Path(__file__).parent
METHODS = ("NTK-DFL", "DFedKFAC", "Pooled rows")


def main() -> None:
    """Draws and prints every study that has been run."""
    for path in sorted(HERE.glob("ntkdfl_studies_*.jsonl")):
        rows = [{name: math.nan if held is None else held for name, held in row.items()} for row in lines(path)]
        recipe_page.picture(path.with_suffix(".png"), rows, ntkdfl_studies.figure)
        study = rows[0]["study"]
        print(f"\n{study}\n")
        if study == "final_average":
            for line in ntkdfl_studies.table(rows):
                print("| " + " | ".join(str(shown(value)) for value in line.values()) + " |")
            continue
        measured = {(line[study], line["method"]): line for line in ntkdfl_studies.table(rows)}
        seeds = Counter((row["value"], row["method"]) for row in rows if row["kind"] == "run")
        for value in sorted({value for value, _ in seeds} - {"none"}, key=lambda text: (len(text), text)):
            keys = [next((key for key in ((value, name), ("none", name)) if key in seeds), None) for name in METHODS]
            found = [None if key is None else (measured[key], seeds[key]) for key in keys]
            print(line_of(value, found))


def line_of(value: str, found: list[tuple[dict[str, Any], int] | None]) -> str:
    """A value's line: the graph's gap, and of each method aggregate, own models and how far these are apart."""
    cells = [value, f"{next(one for one in found if one)[0]['gap']:.3f}".lstrip("0")]
    for one in found:
        if one is None:
            cells += ["", "", ""]
            continue
        line, seeds = one
        spread = f" ± {100 * line['dev']:.1f}" if seeds > 1 else ""
        cells.append(f"{100 * line['end']:.1f}{spread} ({seeds})")
        cells.append(f"{100 * line['a node']:.1f}")
        cells.append(f"{line['apart']:.4f}".lstrip("0"))
    return "| " + " | ".join(cells) + " |"


def shown(value: Any) -> Any:
    """A number as the page has it."""
    return f"{100 * value:.1f}" if isinstance(value, float) else value


if __name__ == "__main__":
    main()
