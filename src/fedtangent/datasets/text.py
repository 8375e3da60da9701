"""text: a column of texts in a CSV or Parquet file as token ids, through a tokenizer's own file."""

from pathlib import Path

from fedtangent.datasets import _arrow
from fedtangent.datasets._columns import agreed
from fedtangent.datasets._labels import Asked, classes_of, labelled
from fedtangent.datasets._tokens import in_tokens
from fedtangent.shard import Dataset


def text(
    data_dir: str | Path | None = None,
    *,
    text: str = "text",
    label: str,
    tokenizer: str | Path,
    length: int = 128,
    masks: bool = False,
    site: str | None = None,
    regression: bool = False,
    test_file: str | Path | None = None,
    test_share: float = 0.2,
    columns: str | Path | None = None,
    separator: str | None = None,
) -> Dataset:
    """Texts as (rows, length) token ids with zeros for padding at the end, as the model transformer takes them.

    Ids are the tokenizer's where its own padding is id 0, and else those plus one; --ids of the transformer must be
    above them all. A text that is missing is padding alone.

    Args:
        data_dir: The path of the file: .csv, .tsv or .parquet.
        text: The column of the texts.
        label: The column to predict: texts or whole numbers, one a class, numbered in their sorted order.
        tokenizer: The file tokenizer.json, as the tokenizers library and every model of Hugging Face's hub has it.
        length: Tokens of a row: of longer ones the first are kept.
        masks: Give input_ids, with the tokenizer's own ids, and attention_mask, for a model of your own.
        site: The column that tells a row's site, for the partition natural; none knows of no sites.
        regression: Predict the number in the label's column.
        test_file: A second file of the same columns, to test on; none keeps a share of the first one's rows.
        test_share: The share of every site's rows to test on, where there is no test file; drawn once, the same always.
        columns: A JSON file that tells the classes, {"classes": ["no", "yes"]}, which the sites of a real federation
            must agree on; none finds them in the rows.
        separator: Between the cells of a CSV; none is a comma, or a tab in a .tsv.

    Raises:
        ValueError: What cannot be read, or is none of the above.
    """
    rows = _arrow.read(data_dir, "data_dir", separator)
    tested = None if test_file is None else _arrow.read(test_file, "test_file", separator)
    known = classes_of(rows, label, regression, None if columns is None else agreed(columns))
    inputs = in_tokens(text, tokenizer, length, masks)
    assert data_dir is not None
    name = Path(data_dir).name.partition(".")[0]
    return labelled(name, rows, tested, Asked(label, site, regression, test_share), known, inputs)
