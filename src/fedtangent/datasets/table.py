"""table: rows of a CSV or Parquet file, a column of which is the label, and another the site that a row comes from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedtangent.datasets import _arrow
from fedtangent.datasets._columns import agreed, found, in_columns
from fedtangent.datasets._labels import Asked, classes_of, labelled
from fedtangent.shard import Dataset


def table(
    data_dir: str | Path | None = None,
    *,
    label: str,
    site: str | None = None,
    regression: bool = False,
    test_file: str | Path | None = None,
    test_share: float = 0.2,
    categorical: Sequence[str] = (),
    leave_out: Sequence[str] = (),
    columns: str | Path | None = None,
    scale: bool = False,
    separator: str | None = None,
) -> Dataset:
    """The rows of a table as (rows, numbers), named like the file; all columns but label and site are inputs.

    Numbers stay as they are, and texts become zeros and ones, one column a category of the training rows. A missing
    number becomes the training rows' mean, and one more column says where; a missing category, or one that only test
    rows have, is all zeros. Rows without a label or a site are refused. Constant columns stay.

    Args:
        data_dir: The path of the file: .csv, .tsv or .parquet; a CSV may be compressed, as .csv.gz.
        label: The column to predict: texts or whole numbers, one a class, numbered in their sorted order.
        site: The column that tells a row's site, for the partition natural; none knows of no sites.
        regression: Predict the number in the label's column.
        test_file: A second file of the same columns, to test on; none keeps a share of the first one's rows.
        test_share: The share of every site's rows to test on, where there is no test file; drawn once, the same always.
        categorical: Columns whose numbers are names of categories, with commas between them.
        leave_out: Columns that the model is not to see, such as a patient's number.
        columns: A JSON file that tells the columns, their categories and the classes, which the sites of a real
            federation must agree on; none finds them in the training rows. Columns that it does not name are left out.
        scale: Subtract every number's mean over the training rows of all sites, and divide by their deviation.
        separator: Between the cells of a CSV; none is a comma, or a tab in a .tsv.

    Raises:
        ValueError: What cannot be read, or is none of the above.
    """
    rows = _arrow.read(data_dir, "data_dir", separator)
    tested = None if test_file is None else _arrow.read(test_file, "test_file", separator)
    given = None if columns is None else agreed(columns)
    features = _features(rows, (label, site), categorical, leave_out)
    assert data_dir is not None
    return labelled(
        Path(data_dir).name.partition(".")[0],
        rows,
        tested,
        Asked(label, site, regression, test_share),
        classes_of(rows, label, regression, given),
        in_columns(features, categorical, given, scale),
    )


def table_columns(
    data_dir: str | Path,
    *,
    label: str,
    site: str | None = None,
    regression: bool = False,
    categorical: Sequence[str] = (),
    leave_out: Sequence[str] = (),
    separator: str | None = None,
) -> dict[str, Any]:
    """What a file of `columns` holds for all rows of a table, to be agreed on with others and written as JSON.

    It tells the categories and classes that occur in the table, so look at it before you pass it on.

    Args:
        data_dir: As of `table`, and so are all others.
        label: See there.
        site: See there.
        regression: See there.
        categorical: See there.
        leave_out: See there.
        separator: See there.
    """
    rows = _arrow.read(data_dir, "data_dir", separator)
    known = classes_of(rows, label, regression, None)
    return found(rows, _features(rows, (label, site), categorical, leave_out), categorical, known).json


def _features(
    rows: Any, apart: Sequence[str | None], categorical: Sequence[str], leave_out: Sequence[str]
) -> list[str]:
    for argument, names in (("categorical", categorical), ("leave_out", leave_out)):
        for name in names:
            _arrow.column(rows, name, argument)
    return [name for name in rows.column_names if name not in (*apart, *leave_out)]
