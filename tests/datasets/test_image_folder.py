"""Folders of images by class: pixels by hand, Tiny-ImageNet's layout, and files that are wrong."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fedtangent import cli
from fedtangent.datasets.image_folder import image_folder

RNG = np.random.default_rng(4)


def image(path: Path, height: int = 5, width: int = 4, grey: bool = False) -> np.ndarray:
    """An image of random pixels, written; its pixels (height, width, 3)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (height, width) if grey else (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return np.repeat(pixels[..., None], 3, 2) if grey else pixels


def standardised(train: list[np.ndarray], part: list[np.ndarray]) -> torch.Tensor:
    """By each channel's mean and deviation over the training images, channels first."""
    held, own = (np.stack(images).transpose(0, 3, 1, 2) / 255 for images in (train, part))
    mean, std = held.mean((0, 2, 3), keepdims=True), held.std((0, 2, 3), keepdims=True)
    return torch.from_numpy((own - mean) / std).float()


def test_a_folder_a_class(tmp_path: Path) -> None:
    folder = tmp_path / "my images"
    train = [image(folder / "train" / name) for name in ("cat/2.png", "dog/a.bmp", "dog/b.PNG")]
    train[1:1] = [image(folder / "train" / "cat/3.png", grey=True)]
    test = [image(folder / "val" / "dog/x.png")]
    (folder / "train" / "cat" / "readme.txt").write_text("no image")
    (folder / "train" / "fox").mkdir()  # a class that another site may have
    found = image_folder(folder)
    torch.testing.assert_close(found.x_train, standardised(train, train), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.x_test, standardised(train, test), atol=1e-5, rtol=1e-5)
    assert (found.y_train.tolist(), found.y_test.tolist(), found.classes) == ([0, 0, 1, 1], [1], 3)
    assert found.name == "my images" and image_folder(folder, channels=1).x_train.shape == (4, 1, 5, 4)


def test_tiny_imagenets_layout(tmp_path: Path) -> None:
    train = [image(tmp_path / "train" / label / "images" / f"{label}_0.png") for label in ("n01", "n02", "n03")]
    test = [image(tmp_path / "val" / "images" / f"val_{row}.png") for row in range(2)]
    (tmp_path / "val" / "val_annotations.txt").write_text("val_1.png\tn03\t0\t0\t9\t9\nval_0.png\tn01\t0\t0\t9\t9\n")
    (tmp_path / "test" / "images").mkdir(parents=True)  # whose labels nobody has
    found = image_folder(tmp_path)
    torch.testing.assert_close(found.x_test, standardised(train, [test[1], test[0]]), atol=1e-5, rtol=1e-5)
    assert found.y_test.tolist() == [2, 0] and found.y_train.tolist() == [0, 1, 2]
    (tmp_path / "val" / "val_annotations.txt").write_text("val_7.png\tn03\n")
    with pytest.raises(ValueError, match=r"^`data_dir` must hold the images of val_annotations.txt; got 'val_7.png"):
        image_folder(tmp_path)


def test_one_folder_keeps_a_share_of_every_class(tmp_path: Path) -> None:
    for label, count in {"a": 7, "b": 3}.items():
        for row in range(count):
            image(tmp_path / label / f"{row}.png")
    found = image_folder(tmp_path, test_share=0.3)
    assert torch.bincount(found.y_train).tolist() == [5, 2] and torch.bincount(found.y_test).tolist() == [2, 1]


def test_images_of_any_size_are_cut_at_their_centre(tmp_path: Path) -> None:
    image(tmp_path / "a" / "0.png", 8, 20)
    image(tmp_path / "b" / "0.png", 16, 8)
    image(tmp_path / "b" / "1.png", 4, 4)
    with pytest.raises(ValueError, match=r"^`size` must be given for images of different sizes; got \(8, 20\) and"):
        image_folder(tmp_path, test_share=0.5)
    assert image_folder(tmp_path, size=(6, 4), test_share=0.5).x_train.shape == (2, 3, 6, 4)


@pytest.mark.parametrize(("kind", "mode"), [("uint16", "I;16"), ("int32", "I"), ("float32", "F")])
def test_pixels_of_more_than_8_bits_are_refused(kind: str, mode: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        image(tmp_path / name / "0.tif")
    Image.fromarray(RNG.integers(0, 60_000, (5, 4)).astype(kind)).save(tmp_path / "b" / "1.tif")
    with pytest.raises(
        ValueError, match=rf"^`data_dir` must hold images of 8 bits .*1\.tif' of mode {mode}, which Pillow "
    ):
        image_folder(tmp_path, test_share=0.5)


def test_photographs_are_upright(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # held so that its top is at the right
    pixels = [RNG.integers(0, 256, (5, 4, 3), dtype=np.uint8) for _ in range(3)]
    for name, one in zip(("train/a/0.png", "train/b/0.png", "test/a/0.png"), pixels, strict=True):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.fromarray(one).save(tmp_path / name, exif=turned)
    train, test = ([np.rot90(one, -1) for one in part] for part in (pixels[:2], pixels[2:]))
    torch.testing.assert_close(image_folder(tmp_path).x_test, standardised(train, test), atol=1e-5, rtol=1e-5)
    for file in tmp_path.rglob("*.png"):
        Image.open(file).save(file, exif=b"Exif\0\0no notes")
    assert image_folder(tmp_path).x_test.shape == (1, 3, 5, 4)


@pytest.mark.parametrize("suffix", ["tif", "gif", "png", "webp"])
def test_images_of_several_frames_are_refused(suffix: str, tmp_path: Path) -> None:
    for name in ("a/0.png", "a/1.png", "b/0.png"):
        image(tmp_path / name)
    frames = [Image.open(tmp_path / "a" / f"{row}.png") for row in (0, 1)]
    frames[0].save(tmp_path / "b" / f"1.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=rf"^`data_dir` must hold images of one frame; got '.*1\.{suffix}' with 2\. "):
        image_folder(tmp_path, test_share=0.5)


@pytest.mark.parametrize("name", ["1.dcm", "scan.NII.gz"])
def test_images_of_kinds_that_are_not_read_are_told_of(name: str, tmp_path: Path) -> None:
    for path in ("a/0.jfif", "a/1.jpe", "b/0.png"):
        image(tmp_path / path, 4, 4)
    assert image_folder(tmp_path, test_share=0.5).x_train.shape == (2, 3, 4, 4)
    (tmp_path / "b" / name).write_bytes(b"a scan")
    with pytest.raises(
        ValueError, match=rf"^`data_dir` must hold images of the kinds \.bmp, .*; got '{name}' in .*b'\."
    ):
        image_folder(tmp_path, test_share=0.5)


def test_images_below_a_classs_folder_are_not_passed_over(tmp_path: Path) -> None:
    for name in ("train/a/0.png", "train/b/more/0.png", "test/a/1.png"):
        image(tmp_path / name)
    with pytest.raises(
        ValueError, match=r"images right in its folder; got folders alone, such as 'more', in '.*train/b'"
    ):
        image_folder(tmp_path)


def test_colour_images_from_the_command_line(tmp_path: Path) -> None:
    for row in range(12):
        image(tmp_path / "my images" / "ab"[row % 2] / f"{row}.png", 9, 9)
    words = ["run", "fedavg", "--dataset", "image_folder", "--data-dir", str(tmp_path / "my images"), "--size", "8,8"]
    words += ["--model", "mlp", "--nodes", "2", "--partition", "iid", "--rounds", "1", "--out", str(tmp_path / "run")]
    assert cli.main(words) == 0
    told = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert told["inputs"] == [3, 8, 8] and told["experiment"]["dataset_options"]["size"] == [8, 8]


WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no folder": (None, {"data_dir": "absent"}, r"^`data_dir` must be a folder of images by class; got 'absent'"),
    "one class": (["a/0.png"], {}, r"^`data_dir` must hold a folder for each of at least two classes; got 1"),
    "no test": (["train/a/0.png", "train/b/0.png"], {}, r"^`data_dir` must hold images to test on, .*got none beside"),
    "no images": (["train/a/0.txt", "train/b/0.txt"], {}, r"^`data_dir` must hold images to test on"),
    "a new class": (
        ["train/a/0.png", "train/b/0.png", "test/a/0.png", "test/c/0.png"],
        {},
        r"^`data_dir` must train on every class that it tests on; got 'c' in test alone. Add a folder train/c",
    ),
    "a torn image": (
        ["a/0.png", "a/1.png", "b/torn.png"],
        {"test_share": 0.5},
        r"^`data_dir` must hold whole images; got",
    ),
    "channels": (
        ["a/0.png", "a/1.png", "b/0.png"],
        {"channels": 4, "test_share": 0.5},
        r"^`channels` must be 1 .*got 4",
    ),
    "a size": (
        ["a/0.png", "a/1.png", "b/0.png"],
        {"size": (3,), "test_share": 0.5},
        r"^`size` must be height and width",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_told_in_a_sentence(what: str, tmp_path: Path) -> None:
    names, options, message = WRONG[what]
    for name in names or ():
        image(tmp_path / name) if name.endswith("png") else (tmp_path / name).parent.mkdir(parents=True)
        if "torn" in name:
            (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:40])
    with pytest.raises(ValueError, match=message):
        image_folder(**({"data_dir": tmp_path} | options))
