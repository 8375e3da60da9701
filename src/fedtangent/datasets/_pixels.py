"""Images of files as 8-bit pixels, all of one shape; by Pillow, which torchvision brings."""

import io
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedtangent.errors import SettingError

Size = Sequence[int] | None


def pixels(images: Iterable[tuple[str, Any]], channels: int, size: Size) -> Tensor:
    """(rows, channels, height, width) as uint8: grey or colour as asked, of one size.

    Args:
        images: Each with its name for messages: a path, a file's bytes, or Pillow's image.
        channels: 1 for grey, 3 for colour; images of the other kind are converted.
        size: Height and width that every image is scaled to, the shorter side first, and cut to at its centre; none
            takes images of one size as they are.

    A photograph that says how it was held is turned upright.

    Raises:
        ValueError: A file that is no image, has more than 8 bits a channel or several frames, or images of different
            sizes.
    """
    if channels not in (1, 3):
        raise SettingError(f"`channels` must be 1 for grey or 3 for colour; got {channels}. Choose one of the two.")
    if size is not None and (len(size) != 2 or min(size) < 1 or max(size) > 2**14):
        raise SettingError(f"`size` must be height and width in pixels, such as 64,64; got {size}. Give both.")
    found: list[np.ndarray] = []
    for name, image in images:
        one = _pixels(name, image, channels, size)
        if found and one.shape != found[0].shape:
            raise SettingError(
                f"`size` must be given for images of different sizes; got {found[0].shape[:2]} and {one.shape[:2]} at "
                f"{name}. Give height and width, such as --size 64,64."
            )
        found.append(one)
    if not found:
        raise SettingError("`data_dir` must hold at least one image in every part; got none. Give it some.")
    held = np.empty((len(found), channels, *found[0].shape[:2]), dtype=np.uint8)
    for row, one in enumerate(found):
        held[row] = one.reshape(*one.shape[:2], channels).transpose(2, 0, 1)
    return torch.from_numpy(held)


def _pixels(name: str, image: Any, channels: int, size: Size) -> np.ndarray:
    from PIL import Image, ImageOps  # slow to import

    try:
        if isinstance(image, bytes):
            image = Image.open(io.BytesIO(image))
        elif not isinstance(image, Image.Image):
            image = Image.open(image)
        with image:
            if image.mode.startswith(("I", "F")):
                raise SettingError(
                    f"`data_dir` must hold images of 8 bits a channel; got {name!r} of mode {image.mode}, which Pillow "
                    "would cut off at 255. Scale its numbers to 255, or give arrays in a .npz file."
                )
            if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":  # a photograph and its preview
                raise SettingError(
                    f"`data_dir` must hold images of one frame; got {name!r} with {frames}. Save each as a file of its "
                    "own, or keep one."
                )
            with suppress(Exception):  # notes that nobody can read say nothing
                image = ImageOps.exif_transpose(image)
            if "transparency" in image.info:  # which Pillow would warn of
                image = image.convert("RGBA")
            read = image.convert("L" if channels == 1 else "RGB")
            if size is not None:
                read = ImageOps.fit(read, (size[1], size[0]), Image.Resampling.BILINEAR)
            return np.asarray(read, dtype=np.uint8)
    except SettingError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        told = " ".join(str(error).split())[:100].rstrip(".")
        raise SettingError(
            f"`data_dir` must hold whole images; got {name!r}, which is none ({told}). Mend or remove it."
        ) from error
