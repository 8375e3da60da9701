"""Tables: hand-worked numbers, a literal encoding as referee, and every way in which a file can be wrong."""

import csv
import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedtangent import cli
from fedtangent.datasets import table as tables
from fedtangent.datasets._labels import kept
from fedtangent.datasets.table import table, table_columns
from fedtangent.extras import imported

pytest.importorskip("pyarrow", reason="needs fedtangent[table]")
import pyarrow as pa
import pyarrow.parquet as pq

TRAIN = """age,sex,bmi,hospital,sick
34, f ,22.5,a,no
51,m,,b,yes
40,f,30.5,a,no
22,?,27,a,yes
"""
TEST = """age,sex,bmi,hospital,sick
61,x,20,b,no
,m,,c,yes
"""
WHOLE = TEST.replace("\n,m", "\n19,m")  # no age is missing
COLUMNS = {"features": {"age": "number", "sex": ["f", "m"], "bmi": {"missing": 25}}, "classes": ["no", "yes"]}


def written(folder: Path, train: str = TRAIN, test: str | None = TEST) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    (folder / "my table.csv").write_text(train, newline="", errors="surrogateescape")
    if test is None:
        return {"data_dir": folder / "my table.csv", "label": "sick"}
    (folder / "test.csv").write_text(test)
    return {"data_dir": folder / "my table.csv", "label": "sick", "test_file": folder / "test.csv"}


def test_a_small_table_by_hand(tmp_path: Path) -> None:
    found = table(**written(tmp_path / "a folder"), site="hospital")
    mean = (22.5 + 30.5 + 27) / 3
    expected = [[34, 1, 0, 22.5, 0], [51, 0, 1, mean, 1], [40, 1, 0, 30.5, 0], [22, 0, 0, 27, 0]]
    torch.testing.assert_close(found.x_train, torch.tensor(expected))
    age = (34 + 51 + 40 + 22) / 4  # no training row lacks an age: nothing says where
    torch.testing.assert_close(found.x_test, torch.tensor([[61, 0, 0, 20, 0], [age, 0, 1, mean, 1]]))
    assert (found.y_train.tolist(), found.y_test.tolist()) == ([0, 1, 0, 1], [0, 1])
    assert found.site_train is not None and found.site_train.tolist() == [0, 1, 0, 0]
    assert (found.name, found.classes) == ("my table", 2)


@pytest.mark.parametrize("blank", [" ", "\t", " NA", "nan ", '" ? "', '""'])
def test_a_missing_cell_may_have_spaces_around_it(blank: str, tmp_path: Path) -> None:
    whole, spaced = (
        table(**written(tmp_path / name, TRAIN.replace("51,m,,b", f"51,m,{cell},b")), site="hospital")
        for name, cell in {"whole": "", "spaced": blank}.items()
    )
    torch.testing.assert_close(spaced.x_train, whole.x_train)
    lost = written(tmp_path / "lost", TRAIN.replace("a,yes", f"a,{blank}"))
    with pytest.raises(ValueError, match="got none in row 4 of column 'sick'"):
        table(**lost)


@pytest.mark.parametrize("header", ["\n\n" + TRAIN, TRAIN.replace("bmi", '"body\nmass\n"'), "\r\n" + TRAIN])
def test_the_first_row_is_the_one_after_the_header(header: str, tmp_path: Path) -> None:
    expected = table(**written(tmp_path / "plain", test=None))
    found = table(**written(tmp_path / "other", header, test=None))
    torch.testing.assert_close(found.x_train, expected.x_train)
    torch.testing.assert_close(found.x_test, expected.x_test)


def rows_of(count: int, seed: int = 3) -> list[dict[str, str]]:
    """A table in general position: texts, numbers, some of both missing, a constant column, rare categories."""
    rng = np.random.default_rng(seed)
    towns = ["Bonn", "Köln", 'a "b", c', "Ulm"]
    found = []
    for row in range(count):
        number = "" if rng.random() < 0.2 else f"{rng.normal():.5f}"
        town = "" if rng.random() < 0.1 else towns[min(int(rng.geometric(0.6)) - 1, 3)]
        fixed = {"number": number, "town": town, "always": "7.25", "code": str(int(rng.integers(3)))}
        found.append({**fixed, "kind": str(int(rng.integers(9, 12))), "clinic": f"c{row % 3}"})
    return found


def literal(train: list[dict[str, str]], part: list[dict[str, str]], texts: set[str]) -> list[list[float]]:
    """The encoding, cell by cell."""
    found = []
    for row in part:
        numbers: list[float] = []
        for name in ("number", "town", "always", "code"):
            there = [other[name] for other in train if other[name] != ""]
            if name in texts:
                numbers += [float(row[name] == category) for category in sorted(set(there))]
                continue
            numbers.append(float(row[name]) if row[name] else sum(map(float, there)) / len(there))
            if len(there) < len(train):
                numbers.append(float(row[name] == ""))
        found.append(numbers)
    return found


def saved(path: Path, rows: list[dict[str, str]]) -> Path:
    if path.suffix == ".parquet":
        read: dict[str, Callable[[str], Any]] = {"number": float, "always": float, "code": int, "kind": int}
        columns = {name: [read.get(name, str)(row[name]) if row[name] else None for row in rows] for name in rows[0]}
        columns["town"] = pa.array(columns["town"]).dictionary_encode()
        pq.write_table(pa.table(columns), path)
        return path
    text = io.StringIO(newline="")
    sheet = csv.DictWriter(text, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
    sheet.writeheader()
    sheet.writerows(rows)
    held = text.getvalue().encode()
    path.write_bytes(gzip.compress(held) if path.suffix == ".gz" else held)
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "csv.gz", "parquet"])
@pytest.mark.parametrize("texts", [{"town"}, {"town", "code"}])
def test_any_form_is_the_literal_encoding(kind: str, texts: set[str], tmp_path: Path) -> None:
    rows = rows_of(83)
    found = table(
        saved(tmp_path / f"data.{kind}", rows), label="kind", site="clinic", categorical=sorted(texts - {"town"})
    )
    test = kept(np.array([row % 3 for row in range(83)]), 0.2)
    train = [row for row, at in zip(rows, test, strict=True) if not at]
    tested = [row for row, at in zip(rows, test, strict=True) if at]
    torch.testing.assert_close(found.x_train, torch.tensor(literal(train, train, texts)))
    torch.testing.assert_close(found.x_test, torch.tensor(literal(train, tested, texts)))
    assert found.y_train.tolist() == [int(row["kind"]) - 9 for row in train]  # 10 comes after 9, not before
    assert found.site_train is not None and found.site_train.tolist() == [int(row["clinic"][1]) for row in train]


def test_the_rows_to_test_on_are_a_share_of_every_site() -> None:
    site = np.repeat([5, 2, 9], [40, 10, 1])
    test = kept(site, 0.3)
    assert [int(test[site == number].sum()) for number in (5, 2, 9)] == [12, 3, 0]
    assert np.array_equal(test, kept(site, 0.3))


def test_scaled_numbers_have_mean_0_and_deviation_1(tmp_path: Path) -> None:
    raw = table(saved(tmp_path / "t.csv", rows_of(83)), label="kind", site="clinic")
    found = table(tmp_path / "t.csv", label="kind", site="clinic", scale=True)
    numbers = torch.tensor([True, False, False, False, False, False, True, True])  # number, where, town, always, code
    assert torch.equal(found.x_train[:, ~numbers], raw.x_train[:, ~numbers])
    torch.testing.assert_close(found.x_train[:, numbers].mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.x_train[:, [0, 7]].std(0, correction=0), torch.ones(2))
    assert (found.x_train[:, 6] == 0).all()  # a constant column stays, at zero


def test_large_numbers_are_scaled_before_they_are_rounded(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    seconds, tiny = 1.7e9 + 30 * rng.normal(size=40), np.full(40, 0.1)  # in float32 all seconds would be alike
    lines = [f"{float(a)!r},{float(b)!r},{row % 2}" for row, (a, b) in enumerate(zip(seconds, tiny, strict=True))]
    (tmp_path / "t.csv").write_text("\n".join(["seconds,tiny,y", *lines]))
    (tmp_path / "test.csv").write_text("seconds,tiny,y\n1700000007,0.3,0\n")
    found = table(tmp_path / "t.csv", label="y", scale=True, test_file=tmp_path / "test.csv")
    expected = (np.append(seconds, 1.7e9 + 7) - seconds.mean()) / seconds.std()
    np.testing.assert_allclose(torch.cat([found.x_train, found.x_test])[:, 0], expected, rtol=1e-5)
    assert (found.x_train[:, 1] == 0).all() and found.x_test[0, 1] == pytest.approx(0.2)


def test_a_regression_is_asked_for(tmp_path: Path) -> None:
    given = written(tmp_path, TRAIN.replace("m,,b", "m,28,b"), TEST.replace("m,,c", "m,21,c")) | {"label": "bmi"}
    with pytest.raises(
        ValueError, match=r"^`label` must be a column of texts or whole .*such as 22.5. Use --regression"
    ):
        table(**given)
    found = table(**given, regression=True, leave_out=("hospital", "sick"))
    assert found.classes == 0 and found.y_train.flatten().tolist() == [22.5, 28, 30.5, 27]


def test_columns_that_are_agreed_on(tmp_path: Path) -> None:
    (tmp_path / "columns.json").write_text("\ufeff" + json.dumps(COLUMNS), encoding="utf-8")  # as of a Windows editor
    given = written(tmp_path, test=WHOLE) | {"columns": tmp_path / "columns.json"}
    found = table(**given)
    assert found.x_train[1].tolist() == [51, 0, 1, 25, 1]
    (tmp_path / "my table.csv").write_text("extra,bmi,sex,sick,age\n9,24,m,yes,50\n")
    alone = table(**(given | {"test_file": tmp_path / "my table.csv"}))  # another order, one class, one row
    assert alone.x_train.tolist() == [[50, 0, 1, 24, 0]] and alone.y_train.tolist() == [1]
    assert alone.classes == 2 and alone.schema == found.schema != table(**written(tmp_path)).schema
    assert found.x_test[0].tolist() == [61, 0, 0, 20, 0]  # a category that nobody agreed on is all zeros


def test_what_can_be_agreed_on_is_read_off_a_table(tmp_path: Path) -> None:
    given = written(tmp_path, test=WHOLE)
    told = table_columns(given["data_dir"], label="sick", site="hospital")
    assert told["features"]["age"] == "number" and told["features"]["sex"] == ["f", "m"]
    assert told["features"]["bmi"] == {"missing": pytest.approx(80 / 3)} and told["classes"] == ["no", "yes"]
    (tmp_path / "columns.json").write_text(json.dumps(told))
    again = table(**given, columns=tmp_path / "columns.json", site="hospital")
    assert torch.equal(again.x_train, table(**given, site="hospital").x_train)


WRONG = {
    "no label": ({"label": "ill"}, {}, r"^`label` must name a column .*got 'ill'. Choose one of age, sex, bmi"),
    "no site": ({"site": "ward"}, {}, r"^`site` must name a column of the table; got 'ward'"),
    "twice": ({}, {"train": TRAIN.replace("bmi", "age")}, r"^`data_dir` must name each column once; got 'age' 2 times"),
    "an index": ({}, {"train": TRAIN.replace("age,", ",")}, r"^`data_dir` must name every column; got none for col"),
    "a name in Windows-1252": (
        {},
        {"train": TRAIN.replace("bmi", "gr\udcf6\udcdfe")},
        r"^`data_dir` must be a whole CSV file in UTF-8; got 'my table.csv' \('utf-8' codec can't decode byte 0xf6",
    ),
    "ragged": ({}, {"train": TRAIN + "1,2\n"}, r"^`data_dir` must be a whole CSV file in UTF-8; got 'my table.csv' \("),
    "no rows": ({}, {"train": TRAIN.splitlines()[0]}, r"^`data_dir` must have at least one row; got none"),
    "empty": ({}, {"train": ""}, r"^`data_dir` must"),
    "one row": (
        {"test_file": None},
        {"train": "\n".join(TRAIN.splitlines()[:2])},
        r"^`test_share` must leave a row to test on; got 0.2 of 1 rows",
    ),
    "semicolons": ({}, {"train": TRAIN.replace(",", ";")}, r"^`label` must name .*Give --separator\.$"),
    "no label in a row": ({}, {"train": TRAIN.replace("a,no", "a,")}, r"^`label` must be known of every row; got none"),
    "no site in a row": (
        {"site": "hospital"},
        {"train": TRAIN.replace("22.5,a", "22.5,")},
        r"^`site` must be known of every row; got none in row 1 of column 'hospital'",
    ),
    "another class": ({}, {"test": TEST.replace("yes", "maybe")}, r"^`sick` must hold one of the known classes, no"),
    "a text among numbers": ({}, {"test": TEST.replace("61", "old")}, r"^`age` must hold numbers in the test rows"),
    "an infinite number": ({}, {"train": TRAIN.replace("34", "inf")}, r"^`age` must hold finite numbers; got an inf"),
    "a share": ({"test_file": None, "test_share": 1.0}, {}, r"^`test_share` must be above 0 and below 1; got 1.0"),
    "left out": ({"leave_out": ("name",)}, {}, r"^`leave_out` must name a column of the table; got 'name'"),
    "nothing left": ({"leave_out": ("age", "sex", "bmi", "hospital")}, {}, r"^`data_dir` must have a column beside"),
    "no file": ({"data_dir": "absent.csv"}, {}, r"^`data_dir` must be the path of a table's file; got 'absent.csv'"),
    "a sheet": ({"data_dir": __file__}, {}, r"^`data_dir` must end in .csv, .*; got 'test_table.py'"),
    "no columns": ({"columns": "absent.json"}, {}, r"^`columns` must be a JSON file of features .*FileNotFoundError"),
    "a target": ({"label": "sex", "regression": True}, {}, r"^`label` must be a column of finite numbers in a regr"),
    "a separator": ({"separator": "ab"}, {}, r"^`separator` must be one character; got 'ab'"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_told_in_a_sentence(what: str, tmp_path: Path) -> None:
    options, texts, message = WRONG[what]
    with pytest.raises(ValueError, match=message):
        table(**(written(tmp_path, **texts) | options))


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"classes": "no"}, r"^`columns` must be a JSON file of features and classes; got .*another form"),
        (COLUMNS | {"more": 1}, r"^`columns` must be a JSON file"),
        (COLUMNS | {"features": {"sex": ["f", "f"]}}, r"^`columns` must be a JSON file .*ValueError: sex"),
        (COLUMNS | {"features": {"sex": ["m"]}}, r"^`columns` must name every category of the training rows; got 'f'"),
        (
            COLUMNS | {"features": {"bmi": "number"}},
            r"^`columns` must tell what stands for a missing number of 'bmi'; go",
        ),
        (COLUMNS | {"features": {"height": "number"}}, r"^`columns` must name a column of the table; got 'height'"),
        (COLUMNS | {"classes": []}, r"^`columns` must name the classes; got none"),
        (COLUMNS | {"classes": ["no"]}, r"^`sick` must hold one of the known classes, no; got 'yes'"),
    ],
)
def test_columns_that_are_wrong(told: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "columns.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=message):
        table(**written(tmp_path, test=WHOLE), columns=tmp_path / "columns.json")


def test_too_many_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables.found.__module__ + ".MOST", 1)
    with pytest.raises(
        ValueError, match=r"^`sex` must be a column of numbers or of at most 1 different texts; got 2, su"
    ):
        table(**written(tmp_path))


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (
            ["2024-05-01", "2024-05-02"],
            r"^`extra` must be a column of numbers or texts; got dates, such as '2024-05-01'",
        ),
        (
            ["2024-05-01 12:00:00", ""],
            r"^`extra` must be a column of numbers or texts; got dates, such as '2024-05-01 1",
        ),
        (
            [f"P{i}" for i in range(30)],
            r"^`extra` must be a column of .* texts that come again; .* such as 'P\d+'\. Lea",
        ),
        (["31.05.2024", "1/6/24"], r"^`extra` must be a column of numbers or texts; got dates, such as '1/6/24'"),
        (
            ["31-MAY-80", "1 June 1981"],
            r"^`extra` must be a column of numbers or texts; got dates, such as '1 June 198",
        ),
        (["May 31 2024", "Sept. 1 2023"], r"^`extra` must be a column of numbers or texts; got dates, such as 'May 3"),
    ],
)
def test_cells_of_a_csv_file_that_name_no_categories(cells: list[str], message: str, tmp_path: Path) -> None:
    lines = [f"{cells[i % len(cells)]},{i % 7},{'ab'[i % 2]}" for i in range(30)]
    (tmp_path / "t.csv").write_text("\n".join(["extra,age,label", *lines]))
    with pytest.raises(ValueError, match=message):
        table(tmp_path / "t.csv", label="label")
    assert table(tmp_path / "t.csv", label="label", leave_out=("extra",)).x_train.shape[1] == 1
    assert table(tmp_path / "t.csv", label="label", categorical=("extra",)).x_train.shape[1] > 1


@pytest.mark.parametrize(
    ("cells", "got"),
    [
        ([f'"1,{i:03}"' for i in range(30)], r"'1,\d{3}'"),
        ([f'"{i},5"' for i in range(30)], r"'\d+,5'"),
        ([*map(str, range(30)), "x"], "'x'"),
        ([*(f"{i}%" for i in range(30)), "7"], r"'\d+%'"),
        ([*map(str, range(27)), "-", "refused", "unable", "unknown"], "'-'"),
    ],
)
def test_numbers_that_are_not_all_written_as_such(cells: list[str], got: str, tmp_path: Path) -> None:
    lines = [f"{cells[i % len(cells)]},{'ab'[i % 2]}" for i in range(300)]
    (tmp_path / "t.csv").write_text("\n".join(["extra,label", *lines]))
    with pytest.raises(
        ValueError, match=rf"^`extra` must hold numbers alone, .*; got {got} among 3\d different cells\. Men"
    ):
        table(tmp_path / "t.csv", label="label")
    assert table(tmp_path / "t.csv", label="label", categorical=("extra",)).x_train.shape[1] == len(cells)


@pytest.mark.parametrize("text", ["<NA>", "#NA", "-nan", "1.#QNAN"])
def test_what_pandas_takes_for_missing_is_missing(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"x,y\n1,a\n{text},b\n5,a\n")
    (tmp_path / "test.csv").write_text("x,y\n1,a\n")
    found = table(tmp_path / "t.csv", label="y", test_file=tmp_path / "test.csv")
    assert found.x_train.tolist() == [[1, 0], [3, 1], [5, 0]]


@pytest.mark.parametrize("cells", [["1", "2", "3a"], [*map(str, range(20)), *"abc"], ["1.2", "v1.3"]])
def test_few_numbers_among_texts_are_names(cells: list[str], tmp_path: Path) -> None:
    lines = [f"{cells[i % len(cells)]},{'ab'[i % 2]}" for i in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["extra,label", *lines]))
    assert table(tmp_path / "t.csv", label="label").x_train.shape[1] == len(cells)


def test_dates_are_no_numbers(tmp_path: Path) -> None:
    dates = pa.array([1, 2, 3], pa.timestamp("s"))
    pq.write_table(pa.table({"when": dates, "sick": ["a", "b", "a"]}), tmp_path / "t.parquet")
    with pytest.raises(
        ValueError, match=r"^`when` must be a column of numbers or texts; got timestamp\[ms\]. Leave it"
    ):
        table(tmp_path / "t.parquet", label="sick", test_share=0.4)
    (tmp_path / "t.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(ValueError, match=r"^`data_dir` must be a whole Parquet file"):
        table(tmp_path / "t.parquet", label="sick")


def test_texts_and_bytes_in_views(tmp_path: Path) -> None:
    sex, raw = pa.array(["f", None, "m", "f"], pa.string_view()), pa.array([b"1"] * 4, pa.binary_view())
    pq.write_table(
        pa.table({"sex": sex, "raw": raw, "y": pa.array([*"abab"], pa.string_view())}), tmp_path / "t.parquet"
    )
    given: dict[str, Any] = {"label": "y", "test_file": tmp_path / "t.parquet"}
    found = table(tmp_path / "t.parquet", leave_out=("raw",), **given)
    assert found.x_train.tolist() == [[1, 0], [0, 0], [0, 1], [1, 0]] and found.y_train.tolist() == [0, 1, 0, 1]
    with pytest.raises(ValueError, match=r"^`raw` must be a column of numbers or texts; got large_binary\. Leave"):
        table(tmp_path / "t.parquet", **given)


def test_numbers_that_are_nan_are_missing_where_they_are_names(tmp_path: Path) -> None:
    ward = pa.array([1.0, float("nan"), 2.5, 1.0])
    pq.write_table(pa.table({"ward": ward, "x": [1, 2, 3, 4], "y": [*"abab"]}), tmp_path / "t.parquet")
    given: dict[str, Any] = {"label": "y", "test_file": tmp_path / "t.parquet"}
    found = table(tmp_path / "t.parquet", categorical=("ward",), **given)
    assert found.x_train[:, :-1].tolist() == [[1, 0], [0, 0], [0, 1], [1, 0]]
    with pytest.raises(ValueError, match=r"^`site` must be known of every row; got none in row 2 of column 'ward'"):
        table(tmp_path / "t.parquet", site="ward", **given)


def test_whole_numbers_beyond_those_of_floating_point_are_numbers(tmp_path: Path) -> None:
    large = [2**53 + 1, 2**62 + 3, 2**63 + 1]
    pq.write_table(pa.table({"id": pa.array(large, pa.uint64()), "y": [*"aba"]}), tmp_path / "t.parquet")
    found = table(tmp_path / "t.parquet", label="y", test_file=tmp_path / "t.parquet")
    assert found.x_train.flatten().tolist() == [2.0**53, 2.0**62, 2.0**63]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([True, False, True], 2),
        (["²", "³", "²"], 2),
        ([5, -1, 7], 3),
        (["01", "2", "1"], 3),
        ([1.0, 0.0, 1.0], 0),
        (["1.0", "0", "1"], 0),
    ],
)
def test_labels_of_every_type(labels: list[Any], classes: int, tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1.0, 2.0, 3.0], "y": labels}), tmp_path / "t.parquet")
    given: dict[str, Any] = {"label": "y", "test_share": 0.34}
    if classes:
        assert table(tmp_path / "t.parquet", **given).classes == classes
        return
    with pytest.raises(
        ValueError, match=r"^`label` must be a column of texts or whole numbers, one a class; got 'y' of n"
    ):
        table(tmp_path / "t.parquet", **given)


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_a_folder_whose_bytes_are_no_utf_8(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"gr\xf6\xdfe")
    folder.mkdir()
    path = saved(tmp_path / f"t.{kind}", rows_of(20))
    assert len(table(path.rename(folder / path.name), label="kind").x_train) == 16


def test_an_index_of_pandas_is_no_input(tmp_path: Path) -> None:
    held = pa.table({"x": [1.0, 2.0, 3.0], "__index_level_0__": [7, 8, 9], "y": [0, 1, 0]})
    pq.write_table(held, tmp_path / "t.parquet")
    given: dict[str, Any] = {"label": "y", "test_share": 0.34}
    with pytest.raises(
        ValueError, match=r"^`data_dir` must be without the index of pandas; got __index_level_0__\. Write"
    ):
        table(tmp_path / "t.parquet", **given)
    assert table(tmp_path / "t.parquet", leave_out=("__index_level_0__",), **given).x_train.shape == (2, 1)
    with pytest.raises(
        TypeError, match=r"^`data_dir` must be the path of a table's file; got Table\. Write it into one"
    ):
        table(held, **given)  # type: ignore[arg-type]


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(
        ValueError, match=r"^`pyarrow` must be installed to read tables; got none. Use pip install 'fedta"
    ):
        table(**written(tmp_path))
    with pytest.raises(ValueError, match=r"^`no_such_library` must be installed to fly; got none."):
        imported("no_such_library.part", "wings", "to fly")


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path / "my data.csv", rows_of(83))
    words = [
        "run",
        "fedavg",
        "--dataset",
        "table",
        "--data-dir",
        str(path),
        "--site",
        "clinic",
        "--partition",
        "natural",
    ]
    words += ["--model", "linear", "--rounds", "1", "--leave-out", "always"]
    assert cli.main([*words, "--label", "kind", "--categorical", "code", "--out", str(tmp_path / "run")]) == 0
    told = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert told["rows"] == [22, 22, 22] and told["experiment"]["dataset_options"]["leave_out"] == ["always"]
    capsys.readouterr()
    assert cli.main(words) == 2
    assert capsys.readouterr().err.startswith("fedtangent: `label` must be given for dataset table; got nothing.")
    assert cli.main([*words, "--label", "number"]) == 2
    assert "Use --regression" in capsys.readouterr().err
