"""Tables in files, and columns of them by name; by pyarrow, which reads CSV and Parquet without pandas."""

import codecs
import csv
import io
from collections import Counter
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from types import NoneType
from typing import Any

from fedtangent import home
from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.extras import imported

CSV, PARQUET = (".csv", ".tsv", ".txt"), (".parquet", ".pq")
_COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
MISSING: tuple[str, ...] = ("", "?", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "#N/A")
MISSING += ("<NA>", "#NA", "#N/A N/A", "-NaN", "-nan", "1.#IND", "1.#QNAN", "-1.#IND", "-1.#QNAN")  # pandas' others


def read(path: str | Path | None, argument: str, separator: str | None = None) -> Any:
    """The rows of a CSV or Parquet file as a pyarrow.Table, cells of a CSV as texts without spaces around them.

    Args:
        path: The file; a CSV may be compressed, as .csv.gz.
        argument: What messages call it.
        separator: Between the cells of a CSV; none is a tab for .tsv and a comma for others.

    Raises:
        ValueError: No such file, another form, no rows, or a column without a name or with that of another.
    """
    pyarrow = imported("pyarrow", "table", "to read tables")
    if not isinstance(path, (str, PathLike, NoneType)):
        raise SettingTypeError(
            f"`{argument}` must be the path of a table's file; got {type(path).__name__}. Write it into one, or make a "
            "fedtangent.Dataset of it."
        )
    if path is None or not home.path(path).is_file():
        got = "none" if path is None else repr(str(path))
        raise SettingError(f"`{argument}` must be the path of a table's file; got {got}. Check the path.")
    path = home.path(path)
    kinds = [suffix.lower() for suffix in path.suffixes[-2:] if suffix not in _COMPRESSED]
    kind = kinds[-1] if kinds else ""
    if kind not in (*CSV, *PARQUET):
        raise SettingError(
            f"`{argument}` must end in {', '.join((*CSV, *PARQUET))}; got {path.name!r}. Save it as CSV or Parquet."
        )
    try:
        if kind in PARQUET:
            with path.open("rb") as file:  # pyarrow opens no path whose bytes are no UTF-8
                table = imported("pyarrow.parquet", "table", "to read tables").read_table(file)
            table = _viewless(pyarrow, table)
            _check_names(table.column_names, path)
        else:
            table = _csv(pyarrow, path, separator or ("\t" if kind == ".tsv" else ","))
    except (pyarrow.ArrowInvalid, pyarrow.ArrowKeyError, OSError, UnicodeDecodeError, csv.Error) as error:
        told = " ".join(str(error).split())[:160].rstrip(".")
        raise SettingError(
            f"`{argument}` must be a whole {'Parquet' if kind in PARQUET else 'CSV'} file in UTF-8; got {path.name!r} "
            f"({told}). Mend the file."
        ) from error
    if table.num_rows == 0:
        raise SettingError(f"`{argument}` must have at least one row; got none in {path.name!r}. Give it some.")
    return table


def column(table: Any, name: str, argument: str) -> Any:
    """The column of a name, in one piece.

    Raises:
        ValueError: There is none.
    """
    if name not in table.column_names:
        names = ", ".join(map(str, table.column_names[:20]))
        hint = " Give --separator." if len(table.column_names) == 1 and {*";\t|"} & {*table.column_names[0]} else ""
        raise SettingError(f"`{argument}` must name a column of the table; got {name!r}. Choose one of {names}.{hint}")
    return whole(table.column(name))


def whole(values: Any) -> Any:
    """A column in one piece, without a dictionary."""
    pyarrow = imported("pyarrow", "table", "to read tables")
    values = values.combine_chunks()
    if isinstance(values, pyarrow.ChunkedArray):  # of no rows, or of pieces that make no one
        values = pyarrow.concat_arrays(values.chunks) if values.num_chunks else pyarrow.array([], values.type)
    return values.dictionary_decode() if pyarrow.types.is_dictionary(values.type) else values


def _viewless(pyarrow: Any, table: Any) -> Any:
    """The same with texts and bytes in the form that pyarrow can filter and sort; Polars writes them as views."""
    kinds = {pyarrow.string_view(): pyarrow.large_string(), pyarrow.binary_view(): pyarrow.large_binary()}
    return table.cast(pyarrow.schema([field.with_type(kinds.get(field.type, field.type)) for field in table.schema]))


def _csv(pyarrow: Any, path: Path, separator: str) -> Any:
    """All cells as texts: what a column holds is decided by all of its cells, not by the first ones."""
    reader = imported("pyarrow.csv", "table", "to read tables")
    if len(separator) != 1:
        raise SettingError(f"`separator` must be one character; got {separator!r}. Use a comma, or leave it out.")
    with path.open("rb") as file, pyarrow.input_stream(file, _COMPRESSED.get(path.suffix)) as stream:
        held = stream.read().removeprefix(b"\xef\xbb\xbf")
    first = codecs.getincrementaldecoder("utf-8")().decode(held[: 2**20])  # which may end within a letter
    head = csv.reader(io.StringIO(first, newline=""), delimiter=separator)
    names = [name.strip() for name in next(filter(None, head), [])]  # after empty lines
    _check_names(names, path)
    if len(held.splitlines()) <= head.line_num:
        return pyarrow.table({name: pyarrow.array([], pyarrow.string()) for name in names})
    table = reader.read_csv(
        pyarrow.BufferReader(held),
        read_options=reader.ReadOptions(column_names=names, skip_rows=head.line_num),
        parse_options=reader.ParseOptions(delimiter=separator, newlines_in_values=True),
        convert_options=reader.ConvertOptions(
            column_types=dict.fromkeys(names, pyarrow.string()), strings_can_be_null=False
        ),
    )
    compute = imported("pyarrow.compute", "table", "to read tables")
    trimmed = [compute.utf8_trim_whitespace(table.column(name)) for name in names]
    missing, none = pyarrow.array(MISSING), pyarrow.scalar(None, pyarrow.string())
    return pyarrow.table([compute.if_else(compute.is_in(one, missing), none, one) for one in trimmed], names=names)


def _check_names(names: Sequence[str], path: Path) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    if twice:
        raise SettingError(
            f"`data_dir` must name each column once; got {twice[0]!r} {names.count(twice[0])} times in {path.name!r}. "
            "Rename one."
        )
    if "" in names:
        raise SettingError(
            f"`data_dir` must name every column; got none for column {names.index('') + 1} of {path.name!r}. Name it, "
            "or write the file without its index."
        )
