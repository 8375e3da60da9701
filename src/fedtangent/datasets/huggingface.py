"""huggingface: a Dataset or DatasetDict of Hugging Face's datasets library, from Python or as it was saved to disk."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedtangent import home
from fedtangent.datasets._columns import Columns, agreed, in_columns
from fedtangent.datasets._labels import Asked, classes_of, labelled
from fedtangent.datasets._pixels import pixels
from fedtangent.datasets._scale import scaled
from fedtangent.datasets._tokens import in_tokens
from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.extras import imported
from fedtangent.shard import Dataset

_ROW = "row of the dataset"


def huggingface(
    data_dir: Any = None,
    *,
    label: str,
    inputs: Sequence[str] = (),
    site: str | None = None,
    regression: bool = False,
    train: str = "train",
    test: str = "test",
    test_share: float = 0.2,
    categorical: Sequence[str] = (),
    tokenizer: str | Path | None = None,
    length: int = 128,
    masks: bool = False,
    channels: int = 3,
    size: tuple[int, ...] | None = None,
    columns: str | Path | None = None,
    scale: bool = False,
) -> Dataset:
    """Its rows: one column of images, of texts or of arrays, or several of numbers and texts, as `table` encodes them.

    Images become (rows, channels, height, width), standardised by each channel's mean and deviation over the training
    images; arrays stay as they are, in float32. Nothing is downloaded.

    Args:
        data_dir: The folder that `save_to_disk` has written; from Python also the Dataset or DatasetDict itself.
        label: The column to predict; classes are those of its ClassLabel where it has one, else its sorted values.
        inputs: The columns that the model sees, with commas between them; none is all but label and site.
        site: The column that tells a row's site, for the partition natural; none knows of no sites.
        regression: Predict the number in the label's column.
        train: The split to train on, of a DatasetDict.
        test: The split to test on; where there is none of that name a share of the rows is kept.
        test_share: The share of every site's rows to test on, where there is no test split; drawn once.
        categorical: Columns whose numbers are names of categories, with commas between them.
        tokenizer: The file tokenizer.json, for a column of texts; none makes them categories.
        length: Tokens of a row, with a tokenizer.
        masks: Give input_ids and attention_mask, with a tokenizer, for a model of your own.
        channels: Of images: 1 for grey, 3 for colour.
        size: Height and width that images are brought to; none takes images of one size.
        columns: A JSON file of columns and classes, as of the data set table.
        scale: Subtract every number's mean over the training rows of all sites, and divide by their deviation.

    Raises:
        TypeError: Something else than such a data set.
        ValueError: What cannot be read, or is none of the above.
    """
    held, tested, name = _parts(data_dir, train, test)
    plain = [column for column in (label, site) if column is not None]
    chosen = list(inputs) or [column for column in held.column_names if column not in plain]
    for column in (*chosen, *plain):
        for part in (held, tested):
            if part is not None and column not in part.column_names:
                names = ", ".join(part.column_names)
                raise SettingError(
                    f"`data_dir` must have the columns that are named, in every split; got {names}, not {column!r}. "
                    "Choose among them."
                )
    if not chosen or (tokenizer is not None and len(chosen) > 1):
        what = "a column beside label and site" if not chosen else "the one column of texts"
        raise SettingError(f"`inputs` must be {what}; got {', '.join(chosen) or 'none'}. Name it.")
    given = None if columns is None else agreed(columns)
    kind, library = held.features[chosen[0]] if len(chosen) == 1 else None, _library()
    image = isinstance(kind, library.Image)
    if image or _is_array(kind):

        def of_rows(part: Any) -> Any:
            which = held if part.column(_ROW)[0].as_py() >= 0 else tested
            rows = np.abs(part.column(_ROW).to_numpy()) - 1
            return _images(which, chosen[0], rows, channels, size) if image else _arrays(which, chosen[0], rows)

        make: Callable[..., Any] = _read_by(of_rows, str(kind))
        rows, test_rows = _numbered(held, plain, 1), _numbered(tested, plain, -1)
    else:
        make = (
            in_columns(chosen, categorical, given, scale)
            if tokenizer is None
            else in_tokens(chosen[0], tokenizer, length, masks)
        )
        rows, test_rows = _table(held, [*chosen, *plain]), _table(tested, [*chosen, *plain])
    known = _classes(held, rows, label, regression, given)
    return labelled(name, rows, test_rows, Asked(label, site, regression, test_share), known, make)


def _library() -> Any:
    return imported("datasets", "huggingface", "to read a Dataset of Hugging Face's")


def _parts(given: Any, train: str, test: str) -> tuple[Any, Any, str]:
    """Training rows, test rows or None, and a name."""
    library, name = _library(), "huggingface"
    if given is None or isinstance(given, (str, Path)):
        path = home.path(given or "")
        try:
            if given is None:
                raise FileNotFoundError("none")
            found, name = library.load_from_disk(str(path)), path.name
        except Exception as error:  # of the library, arrow or the file system
            told = " ".join(str(error).split())[:120].rstrip(".")
            raise SettingError(
                f"`data_dir` must be a folder that save_to_disk has written; got {str(given)!r} ({told}). Check it."
            ) from error
    else:
        found = given
    if isinstance(found, library.DatasetDict):
        if train not in found:
            raise SettingError(f"`train` must be one of its splits, {', '.join(found)}; got {train!r}. Choose one.")
        found, tested = found[train], found.get(test)
    else:
        tested = None
    if not isinstance(found, library.Dataset):
        raise SettingTypeError(
            f"`data_dir` must be a Dataset or a DatasetDict; got {type(found).__name__}. Load a streamed one whole."
        )
    for part in (found, tested):
        if part is not None and not len(part):
            raise SettingError("`data_dir` must have at least one row in every split; got none. Give it some.")
    return found, tested, name


def _table(held: Any, columns: Sequence[str]) -> Any:
    """Its rows as a pyarrow.Table; None of None."""
    return None if held is None else held.select_columns(list(dict.fromkeys(columns))).with_format("arrow")[:]


def _numbered(held: Any, columns: Sequence[str], sign: int) -> Any:
    """Label and site, and the numbers of the rows from 1; those of test rows are negative."""
    if held is None:
        return None
    pyarrow = imported("pyarrow", "huggingface", "to read a Dataset of Hugging Face's")
    return _table(held, columns).append_column(_ROW, pyarrow.array(sign * np.arange(1, len(held) + 1)))


def _read_by(of_rows: Callable[[Any], Any], kind: str) -> Callable[..., Any]:
    def make(train: Any, test: Any, classes: Sequence[str]) -> tuple[Any, Any, str]:
        told = hashlib.blake2b(f"{kind}{list(classes)}".encode(), digest_size=8).hexdigest()
        return (*scaled(of_rows(train), of_rows(test)), told)

    return make


def _is_array(kind: Any) -> bool:
    library = _library()
    names = ("Array2D", "Array3D", "Array4D", "Array5D", "List", "LargeList", "Sequence")
    return isinstance(kind, tuple(getattr(library, name) for name in names if hasattr(library, name)))


def _images(held: Any, column: str, rows: np.ndarray, channels: int, size: tuple[int, ...] | None) -> torch.Tensor:
    return pixels(((f"row {row}", held[int(row)][column]) for row in rows), channels, size)


def _arrays(held: Any, column: str, rows: np.ndarray) -> torch.Tensor:
    """The rows of a column of arrays, all of one shape."""
    read = held.select_columns([column])
    found = [np.asarray(read[int(row)][column]) for row in rows]
    odd = next(
        (at for at, one in enumerate(found) if one.shape != found[0].shape or one.dtype.kind not in "biuf"), None
    )
    if odd is not None:
        raise SettingError(
            f"`{column}` must hold arrays of numbers of one shape, {found[0].shape}; got {found[odd].shape} of "
            f"{found[odd].dtype} in row {rows[odd]}. Pad or cut them."
        )
    return torch.from_numpy(np.stack(found).astype(np.float32))


def _classes(held: Any, rows: Any, label: str, regression: bool, given: Columns | None) -> list[str]:
    kind = held.features[label]
    if isinstance(kind, _library().ClassLabel) and not regression and given is None:
        return [str(number) for number in range(kind.num_classes)]
    return classes_of(rows, label, regression, given)
