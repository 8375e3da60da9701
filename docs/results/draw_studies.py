"""The figures and tables of ntkdfl_studies.md from the records beside this file.

    python docs/results/draw_studies.py

`ntkdfl_studies_STUDY.jsonl` holds the rows of `fedtangent recipe ntkdfl_studies --study STUDY`; its figure is written
beside it.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
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
        runs = [row for row in rows if row["kind"] == "run"]
        for value in sorted({run["value"] for run in runs} - {"none"}, key=lambda text: (len(text), text)):
            print(line_of(value, [run for run in runs if run["value"] in (value, "none")]))


def line_of(value: str, runs: list[dict[str, Any]]) -> str:
    """A value's line: the graph's gap, and of each method aggregate, own models and how far these are apart."""
    cells = [value, f"{np.mean([run['gap'] for run in runs]):.3f}".lstrip("0")]
    for name in METHODS:
        found = [run for run in runs if run["method"] == name]
        if not found:
            cells += ["", "", ""]
            continue
        percent = [100 * run["accuracy"] for run in found]
        spread = f" ± {np.std(percent, ddof=1):.1f}" if len(found) > 1 else ""
        cells.append(f"{np.mean(percent):.1f}{spread} ({len(found)})")
        cells.append(f"{100 * np.mean([run['node_mean'] for run in found]):.1f}")
        cells.append(f"{np.mean([run['deviation'] for run in found]):.4f}".lstrip("0"))
    return "| " + " | ".join(cells) + " |"


def shown(value: Any) -> Any:
    """A number as the page has it."""
    return f"{100 * value:.1f}" if isinstance(value, float) else value


if __name__ == "__main__":
    main()
