"""image_folder: a folder of images by class, train/CLASS/* and test/CLASS/*, or one alone; Tiny-ImageNet's layout too.

Tiny-ImageNet (Le, Yang. Tiny ImageNet Visual Recognition Challenge. Stanford CS 231N, 2015) keeps train/CLASS/images/*,
and the images to test on in val/images, whose classes stand in val/val_annotations.txt.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fedtangent import home
from fedtangent.datasets._check import checked
from fedtangent.datasets._labels import kept
from fedtangent.datasets._pixels import pixels
from fedtangent.datasets._scale import scaled
from fedtangent.errors import SettingError
from fedtangent.shard import Dataset

SUFFIXES = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
UNREAD = (".avif", ".dcm", ".dicom", ".heic", ".heif", ".jp2", ".nii", ".nii.gz", ".svs")  # of images, too
_TEST, _NOTES = ("test", "val", "valid", "validation"), "val_annotations.txt"
Images = list[tuple[Path, str]]  # and the class of each


def image_folder(
    data_dir: str | Path | None = None,
    *,
    size: tuple[int, ...] | None = None,
    channels: int = 3,
    test_share: float = 0.2,
) -> Dataset:
    """The images as (rows, channels, height, width), standardised by each channel's mean and deviation in training.

    Classes are the sorted names of the folders train/CLASS; a class may be an empty folder. Images to test on lie in
    test/CLASS or val/CLASS. A folder of classes alone, CLASS/*, is cut by `test_share`, class by class. Files of other
    kinds are passed over, but for images that are not read, such as .dcm.

    Args:
        data_dir: The folder.
        size: Height and width, such as 64,64, that every image is scaled to and cut to at its centre; none takes images
            of one size as they are.
        channels: 3 for colour, 1 for grey; images of the other kind are converted.
        test_share: The share of every class's images to test on, where there is no such folder; drawn once.

    Raises:
        ValueError: No such folder, a file that is no image or has more than 8 bits a channel or several frames, folders
            in a class's, or an image to test on of another class.
    """
    if data_dir is None or not home.path(data_dir).is_dir():
        got = "none" if data_dir is None else repr(str(data_dir))
        raise SettingError(f"`data_dir` must be a folder of images by class; got {got}. Check the path.")
    folder = home.path(data_dir)
    split = (folder / "train").is_dir()
    classes = _folders(folder / "train" if split else folder)
    if len(classes) < 2:
        raise SettingError(
            f"`data_dir` must hold a folder for each of at least two classes; got {len(classes)} in {str(folder)!r}. "
            "Sort the images into folders."
        )
    train = _by_class(folder / "train" if split else folder, classes)
    if split:
        test = _tested(folder, classes)
    else:
        held = kept(np.array([classes.index(label) for _, label in train]), test_share)
        train, test = ([train[i] for i in np.flatnonzero(held == part)] for part in (False, True))
    place = {label: number for number, label in enumerate(classes)}
    x_train, x_test = scaled(*(pixels(((str(p), p) for p, _ in part), channels, size) for part in (train, test)))
    y_train, y_test = (torch.tensor([place[label] for _, label in part]) for part in (train, test))
    schema = hashlib.blake2b("\0".join(classes).encode(), digest_size=8).hexdigest()
    return checked(Dataset(folder.resolve().name, x_train, y_train, x_test, y_test, len(classes), schema=schema))


def _folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _by_class(folder: Path, classes: Sequence[str]) -> Images:
    """The images of every class's folder, or of the folder images in it, in the order of their names."""
    return [(path, label) for label in classes for path in _images(folder / label)]


def _images(folder: Path) -> list[Path]:
    inner = folder / "images"
    folder = inner if inner.is_dir() else folder
    if unread := next((path.name for path in sorted(folder.iterdir()) if path.name.lower().endswith(UNREAD)), None):
        raise SettingError(
            f"`data_dir` must hold images of the kinds {', '.join(SUFFIXES)}; got {unread!r} in {str(folder)!r}. "
            "Convert it, or give arrays in a .npz file."
        )
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found and (deeper := _folders(folder)):
        raise SettingError(
            f"`data_dir` must hold a class's images right in its folder; got folders alone, such as {deeper[0]!r}, in "
            f"{str(folder)!r}. Move the images up."
        )
    return found


def _tested(folder: Path, classes: Sequence[str]) -> Images:
    """The images to test on, of classes that are trained on."""
    for name in _TEST:
        part = folder / name
        if (part / _NOTES).is_file():
            found = _annotated(part)
        elif part.is_dir() and any(path.is_dir() and path.name != "images" for path in part.iterdir()):
            found = _by_class(part, _folders(part))
        else:
            continue
        strange = next((label for _, label in found if label not in classes), None)
        if strange is not None:
            raise SettingError(
                f"`data_dir` must train on every class that it tests on; got {strange!r} in {name} alone. Add a folder "
                f"train/{strange}, or remove these images."
            )
        return found
    raise SettingError(
        f"`data_dir` must hold images to test on, by class in test or val; got none beside train in {folder.name}. Add "
        "them, or give the folder train itself to keep a share."
    )


def _annotated(part: Path) -> Images:
    """Tiny-ImageNet's: a line a file, its name and its class first, with tabs between them."""
    found = []
    for number, line in enumerate((part / _NOTES).read_text(encoding="utf-8").splitlines(), 1):
        words = line.split("\t")
        path = part / "images" / words[0]
        if len(words) < 2 or not path.is_file():
            raise SettingError(
                f"`data_dir` must hold the images of {_NOTES}; got {line[:60]!r} in line {number}. Unpack it anew."
            )
        found.append((path, words[1]))
    return found
