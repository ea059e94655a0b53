"""Images: folders, files and arrays to samples; any picture to uint8 (channels, height, width)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageOps, UnidentifiedImageError

from nas.data.dataset import shape_profile
from nas.data.folders import IMAGES, read_each, refuse_bad
from nas.data.limits import refuse_larger
from nas.data.samples import Arrays, Samples, label_frame, to_numpy
from nas.task import DataProfile, InputError, UsageError

SMALLEST, LARGEST = 8, 128  # pixels of a side, unless the user says image_size
_GREY = {"1", "L", "LA", "I", "I;16", "I;16L", "I;16B", "I;16N", "F"}
_DEEP = _GREY - {"1", "L", "LA"}  # more than 8 bit a value
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap height and width


def recognise(source: Any) -> str:
    if isinstance(source, Arrays):
        return f"arrays of {source.ndim - 1} axes a sample" if source.ndim in (3, 4) else ""
    return IMAGES.recognise(source)


def load(source: Path | pd.DataFrame | Arrays, target: list[str] | None) -> Samples:
    """Image files or an array of images, with one label column (or those of the table)."""
    if not isinstance(source, Arrays):
        return IMAGES.load(source, target)
    if source.y is None:
        raise UsageError("an array of images needs its labels; give (X, y)")
    pixels, labels = _channels_first(source.x), label_frame(source.y, target)
    if len(labels) != len(pixels):
        raise InputError(f"X has {len(pixels)} images, but y has {len(labels)}")
    return Samples(pixels, labels, source.given, labels)


def load_inputs(source: Path | pd.DataFrame | Arrays) -> Samples:
    """Images to predict, labelled or not: a folder, a table, one file, or an array."""
    if not isinstance(source, Arrays):
        return IMAGES.load_inputs(source)
    pixels = _channels_first(source.x)
    labels = pd.DataFrame(index=range(len(pixels)))
    return Samples(pixels, labels if source.y is None else label_frame(source.y, None))


# Pixels ----------------------------------------------------------------------------------


def code(
    samples: Samples, train: np.ndarray, image_size: int | None = None
) -> tuple[dict[str, np.ndarray], DataProfile, list[str]]:
    """The pixels, the statistics of their channels on the training rows, and notes."""
    pixels, notes = read(samples.inputs, image_size)
    mean, std = channel_statistics(pixels, train)
    inputs = {"image": pixels}
    profile = shape_profile(inputs, train)
    return inputs, replace(profile, channel_mean=tuple(mean), channel_std=tuple(std)), notes


def encode(source: Any, profile: DataProfile) -> dict[str, np.ndarray]:
    """New images, in the size and the channels of the training data."""
    return {"image": _fit(source, profile.inputs["image"])}


def read(source: Any, image_size: int | None) -> tuple[np.ndarray, list[str]]:
    """All images as uint8 (n, C, H, W) in one common size, and notes on what was done.

    The size is the median height and width, at least 8; a longer side over 128 is
    scaled to 128, or the longer side is made ``image_size`` where that is given. Each
    image is resized to it as a whole, antialiased, so one of another aspect ratio is
    stretched rather than cut. C is 1 if every image is grey, else 3.
    """
    if isinstance(source, np.ndarray):
        height, width = source.shape[2:]
        size = _common_size(np.array([[height, width]]), image_size)
        notes = []
        if size != (height, width):
            notes.append(f"images are resized from {height} x {width} to {size[0]} x {size[1]}")
            source = np.stack([_resize_array(image, size) for image in source])
        return source, notes
    sizes, grey = _measure(source)
    size = _common_size(sizes, image_size)
    notes = []
    if (sizes != size).any():
        low, high = sizes.min(axis=0), sizes.max(axis=0)
        notes.append(
            f"images of {low[0]} x {low[1]} to {high[0]} x {high[1]} (height x width)"
            f" are resized to {size[0]} x {size[1]}"
        )
    pixels = decode(source, (1 if grey else 3, *size))
    if not grey and all((image[0] == image[1:]).all() for image in pixels):
        notes.append("every image is grey although stored in colour: read as one channel")
        pixels = np.ascontiguousarray(pixels[:, :1])
    return pixels, notes


def _fit(source: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Images in the (C, H, W) of the training data."""
    if not isinstance(source, np.ndarray):
        return decode(source, shape)
    channels, *size = shape
    if source.shape[1] != channels:
        source = source.repeat(3, axis=1) if channels == 3 else _luma(source)
    if source.shape[2:] != tuple(size):
        source = np.stack([_resize_array(image, (size[0], size[1])) for image in source])
    pixels: np.ndarray = source
    return pixels


def decode(files: list[Path], shape: tuple[int, ...]) -> np.ndarray:
    """uint8 (n, C, H, W) of image files; all files that cannot be decoded are named at once."""
    channels, height, width = shape
    needed = len(files) * channels * height * width
    refuse_larger(
        needed, f"{len(files)} images of {height} x {width} need", "give a smaller image_size"
    )
    pixels = np.empty((len(files), *shape), np.uint8)

    def fill(file: Path, place: np.ndarray) -> None:
        with Image.open(file) as image:
            # JPEG decodes straight to a half, a quarter or an eighth; never below twice the goal.
            image.draft(image.mode, (2 * max(height, width),) * 2)
            array = np.asarray(
                _plain(image, channels).resize((width, height), Image.Resampling.BILINEAR)
            )
        place[:] = array if channels == 1 else array.transpose(2, 0, 1)

    _, bad = _each(files, fill, pixels)
    refuse_bad(files, bad, "images", "image")
    return pixels


def _measure(files: list[Path]) -> tuple[np.ndarray, bool]:
    """Height and width (n, 2) as people see them, and whether every file is stored grey."""

    def look(file: Path) -> tuple[tuple[int, int], bool]:
        with Image.open(file) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112) in _TURNED
            return (width, height) if turned else (height, width), image.mode in _GREY

    # A file whose header is broken is named by decode, with those that break later.
    found, _ = _each(files, look)
    known = [each for each in found if each is not None] or [((SMALLEST, SMALLEST), True)]
    return np.array([size for size, _ in known]), all(grey for _, grey in known)


def _each(
    files: list[Path], work: Callable[..., Any], *beside: Any
) -> tuple[list[Any], list[tuple[int, str]]]:
    """``work`` of every file, and the rows of those that are no sound images, with the reason."""
    errors = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)

    def reason(error: Exception) -> str:
        return "no image" if isinstance(error, UnidentifiedImageError) else str(error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on metadata that no pixel depends on
        return read_each(files, work, errors, reason, *beside)


def _plain(image: Image.Image, channels: int) -> Image.Image:
    """8-bit L or RGB, upright, transparent pixels on white."""
    image = ImageOps.exif_transpose(image)
    if image.mode in _DEEP:
        # 16 bit (also as 32-bit integers) over its full range; floats are 0..1.
        deep = np.asarray(image, np.float64) / (1 if image.mode == "F" else 65535)
        image = Image.fromarray((255 * deep.clip(0, 1)).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB") if image.mode not in ("L", "1") else image
    return image.convert("L" if channels == 1 else "RGB")


def _common_size(sizes: np.ndarray, image_size: int | None) -> tuple[int, int]:
    if image_size is not None and image_size < SMALLEST:
        raise UsageError(f"image_size must be at least {SMALLEST}, but got {image_size}")
    median = np.median(sizes, axis=0)
    longer = image_size or min(median.max(), LARGEST)
    height, width = np.maximum(np.round(median * longer / median.max()), SMALLEST).astype(int)
    return int(height), int(width)


def _resize_array(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    pictures = [
        Image.fromarray(channel).resize(size[::-1], Image.Resampling.BILINEAR) for channel in image
    ]
    return np.stack([np.asarray(picture) for picture in pictures])


def _luma(pixels: np.ndarray) -> np.ndarray:
    """Grey (n, 1, H, W) of colour, by the weights of ITU-R BT.601 that Pillow uses."""
    weights = np.array([0.299, 0.587, 0.114]).reshape(3, 1, 1)
    grey: np.ndarray = (pixels * weights).sum(axis=1, keepdims=True).round().astype(np.uint8)
    return grey


def _channels_first(x: Any) -> np.ndarray:
    """uint8 (n, C, H, W) of (n, H, W), (n, H, W, C) or (n, C, H, W); values 0..255 or 0..1."""
    pixels = to_numpy(x)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.ndim == 4:
        first, last = pixels.shape[1] in (1, 3, 4), pixels.shape[3] in (1, 3, 4)
        if first == last:
            raise InputError(
                f"images of the shape {pixels.shape}: which axis holds the channels is not plain;"
                " give (n, H, W), (n, H, W, C) or (n, C, H, W) with 1, 3 or 4 channels"
            )
        if last:
            pixels = pixels.transpose(0, 3, 1, 2)
    else:
        raise InputError(f"images need 3 or 4 axes, but X has the shape {pixels.shape}")
    if not pixels.size:
        raise InputError(f"X of the shape {pixels.shape} holds no image")
    pixels = np.ascontiguousarray(_eight_bit(pixels))
    if pixels.shape[1] == 4:
        alpha = pixels[:, 3:] / 255
        pixels = (pixels[:, :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)
    return pixels


def _eight_bit(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * np.uint8(255)
    if not np.issubdtype(pixels.dtype, np.number):
        raise InputError(f"images must be numbers, but X is of {pixels.dtype}")
    low, high = float(pixels.min()), float(pixels.max())
    whole = np.issubdtype(pixels.dtype, np.integer)
    top = 255 if high <= 255 else 65535
    if not low >= 0 or not high <= (65535 if whole else 255):  # NaN fails too
        raise InputError(
            f"image values must be 0..255 or 0..1, but they run from {low:g} to {high:g};"
            " undo the normalisation (it is done from the training part)"
        )
    if not whole and high <= 1:
        top = 1
    if whole and top == 255:
        return pixels.astype(np.uint8)
    return np.round(pixels * (255 / top)).astype(np.uint8)


def channel_statistics(pixels: np.ndarray, rows: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over the given images, of values in 0..1.

    From counts of the 256 values, so that no image is turned into floats.
    """
    channels = pixels.shape[1]
    counts = np.zeros((channels, 256), np.int64)
    for chunk in _chunks(rows, 1024):
        for channel in range(channels):
            counts[channel] += np.bincount(pixels[chunk, channel].ravel(), minlength=256)
    share, values = counts / counts.sum(axis=1, keepdims=True), np.arange(256) / 255
    mean = share @ values
    std = np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))
    std[std == 0] = 1.0  # a black channel must not divide by zero
    return mean.tolist(), std.tolist()


def _chunks(rows: np.ndarray, size: int) -> Iterable[np.ndarray]:
    return (rows[i : i + size] for i in range(0, len(rows), size))
