"""Images: folders, files and arrays to samples; any picture to uint8 (channels, height, width)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageOps, UnidentifiedImageError

from nas.data.column_types import ignored_only
from nas.data.dataset import shape_profile
from nas.data.decoded import decoded
from nas.data.folders import IMAGES, read_each, refuse_bad
from nas.data.limits import resident_limit, room_for
from nas.data.samples import Arrays, Samples, label_frame, to_numpy
from nas.task import DataProfile, InputError, UsageError

# Pixels of a side, unless the user says image_size: the networks that many images allow, such as
# ResNet-50, read 224 (He et al. 2016, sec. 3.4).
SMALLEST, LARGEST, LARGEST_OF_MANY, MANY = 8, 128, 224, 100_000
_GREY = {"1", "L", "LA", "I", "I;16", "I;16L", "I;16B", "I;16N", "F"}
_DEEP = _GREY - {"1", "L", "LA"}  # more than 8 bit a value
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap height and width
_USUAL = ((0.0, 1.0), (0.0, 255.0))
_TOPS = (2**10 - 1, 2**12 - 1, 2**14 - 1, 2**16 - 1)  # the largest values of cameras
FEW_LEVELS = 16  # grey levels of nearly all pixels, below which a note is due
MOST_COUNTED, COUNTED_BYTES = 50_000, 2**24  # images whose values are counted; bytes at a time
DECODING_COPIES = 4  # of an image that its decoding, turning and blending take at the most


def recognise(source: Any) -> str:
    if isinstance(source, Arrays):
        return f"arrays of {source.ndim - 1} axes a sample" if source.ndim in (3, 4) else ""
    return IMAGES.recognise(source)


def load(
    source: Path | pd.DataFrame | Arrays, target: list[str] | None, columns: Mapping[str, str]
) -> Samples:
    """Image files or an array of images, with one label column (or those of the table)."""
    if not isinstance(source, Arrays):
        return IMAGES.load(source, target, columns)
    ignored_only(columns, (), "images")
    if source.y is None:
        raise UsageError("an array of images needs its labels; give (X, y)")
    pixels, labels = _channels_first(source.x), label_frame(source.y, target)
    if len(labels) != len(pixels):
        raise InputError(f"X has {len(pixels)} images, but y has {len(labels)}")
    return Samples(pixels, labels, source.given, labels)


def load_inputs(source: Path | pd.DataFrame | Arrays, as_written: Collection[str] = ()) -> Samples:
    """Images to predict, labelled or not: a folder, a table, one file, or an array."""
    if not isinstance(source, Arrays):
        return IMAGES.load_inputs(source, as_written)
    pixels = _channels_first(source.x)
    if source.ndim == 3:
        pixels = pixels[:, 0]  # as they came: ``encode`` may know them for one image of colour
    labels = pd.DataFrame(index=range(len(pixels)))
    return Samples(pixels, labels if source.y is None else label_frame(source.y, None))


# Pixels ----------------------------------------------------------------------------------


def code(
    samples: Samples, train: np.ndarray, image_size: int | None = None
) -> tuple[dict[str, np.ndarray], DataProfile, list[str]]:
    """The pixels, the statistics of their channels on the training rows, and notes."""
    pixels, pixel_range, notes = read(samples.inputs, train, image_size)
    mean, std = channel_statistics(pixels, train)
    inputs = {"image": pixels}
    profile = replace(
        shape_profile(inputs, train),
        channel_mean=tuple(mean),
        channel_std=tuple(std),
        pixel_range=pixel_range,
    )
    return inputs, profile, notes


def encode(source: Any, profile: DataProfile) -> dict[str, np.ndarray]:
    """New images, in the size, the channels and the range of the training data.

    Raises InputError for files that cannot be decoded, for values of another range, and for an
    array (H, W, C) or (C, H, W) that plainly is one image of colour.
    """
    return {"image": _fit(source, profile.inputs["image"], profile.pixel_range)}


def read(
    source: Any, train: np.ndarray, image_size: int | None
) -> tuple[np.ndarray, tuple[float, ...], list[str]]:
    """All images as uint8 (n, C, H, W) in one common size, the range of their values before, and
    notes on what was done.

    The size is the median height and width, at least 8; a longer side over 128 (of 100,000
    images or more 224) is scaled to that, or made ``image_size`` where it is given. Each
    image is resized to it as a whole, antialiased, so one of another aspect ratio is
    stretched rather than cut. C is 1 if every image is grey, else 3. The range is that of
    the rows ``train``, and () where all values are whole and within 0..255 already.
    """
    if isinstance(source, np.ndarray):
        pixel_range, notes = _range_of_array(source, train)
        source = _eight_bit_array(source, pixel_range)
        height, width = source.shape[2:]
        size = _common_size(np.array([[height, width]]), len(source), image_size)
        if size != (height, width):
            notes.append(f"images are resized from {height} x {width} to {size[0]} x {size[1]}")
            source = np.stack([_resize_array(image, size) for image in source])
        return source, pixel_range, notes + _few_levels(source, train, pixel_range)
    headers = _headers(source)
    sizes = np.array([header.size for header in headers.values()] or [(SMALLEST, SMALLEST)])
    grey = all(header.grey for header in headers.values())
    size = _common_size(sizes, len(sizes), image_size)
    notes = []
    if (sizes != size).any():
        low, high = sizes.min(axis=0), sizes.max(axis=0)
        notes.append(
            f"images of {low[0]} x {low[1]} to {high[0]} x {high[1]} (height x width)"
            f" are resized to {size[0]} x {size[1]}"
        )
    if several := sum(header.frames for header in headers.values()):
        notes.append(f"{several} of {len(source)} images have several frames: the first is read")
    pixel_range, more = _range_of_files(source, headers, train)
    pixels = decode(source, (1 if grey else 3, *size), pixel_range)
    notes += more + _few_levels(pixels, train, pixel_range)
    notes += _cut_colours(pixels, [row for row, header in headers.items() if header.cut], train)
    if not grey and all((image[0] == image[1:]).all() for image in pixels):
        notes.append("every image is grey although stored in colour: read as one channel")
        if isinstance(pixels, np.memmap):  # its other channels are as large as what is kept
            pixels = decode(source, (1, *size), pixel_range)
        else:
            pixels = np.ascontiguousarray(pixels[:, :1])
    return pixels, pixel_range, notes


def _fit(source: Any, shape: tuple[int, ...], pixel_range: tuple[float, ...]) -> np.ndarray:
    """Images in the (C, H, W) and the range of the training data."""
    if not isinstance(source, np.ndarray):
        return decode(source, shape, pixel_range)
    channels, *size = shape
    if source.ndim == 3:
        n, height, width = source.shape
        if channels == 3 and (width in (3, 4) or (n in (3, 4) and [height, width] == size)):
            raise InputError(
                f"X of the shape {source.shape} would be {n} grey images of {height} x {width}, but"
                " the training images have colours; give one image as x[None], grey images as"
                " x[..., None]"
            )
        source = source[:, None]
    source = _eight_bit_array(source, pixel_range)
    if source.shape[1] != channels:
        source = source.repeat(3, axis=1) if channels == 3 else _luma(source)
    if source.shape[2:] != tuple(size):
        source = np.stack([_resize_array(image, (size[0], size[1])) for image in source])
    pixels: np.ndarray = source
    return pixels


# Files -----------------------------------------------------------------------------------


def decode(
    files: list[Path], shape: tuple[int, ...], pixel_range: tuple[float, ...] = ()
) -> np.ndarray:
    """uint8 (n, C, H, W) of image files; values of more than 8 bits are scaled by
    ``pixel_range``. What is larger than ``resident_limit`` stays in a file (nas/data/decoded.py).
    Raises InputError, which names all files that cannot be decoded."""
    channels, height, width = shape

    def fill(file: Path, place: np.ndarray) -> None:
        with Image.open(file) as image:
            # JPEG decodes straight to a half, a quarter or an eighth; never below twice the goal.
            image.draft(image.mode, (2 * max(height, width),) * 2)
            with _decoding(image):
                plain = _plain(image, channels, pixel_range)
                array = np.asarray(plain.resize((width, height), Image.Resampling.BILINEAR))
        place[:] = array if channels == 1 else array.transpose(2, 0, 1)

    def fill_all(some: Sequence[Path], places: np.ndarray) -> list[tuple[int, str]]:
        return _each(some, fill, places)[1]

    if len(files) * channels * height * width > resident_limit():
        pixels, bad = decoded(files, shape, pixel_range, fill_all)
    else:
        pixels = np.empty((len(files), *shape), np.uint8)
        bad = fill_all(files, pixels)
    refuse_bad(files, bad, "images", "image")
    return pixels


def _decoding(image: Image.Image) -> AbstractContextManager[None]:
    """Waits where decoding an image takes much memory; ValueError where it takes too much."""
    width, height = image.size
    values = 8 if image.mode in _DEEP else len(image.getbands())  # bytes of a pixel
    needed = DECODING_COPIES * width * height * values
    return room_for(needed, f"decoding {width} x {height} pixels")


@dataclass(frozen=True)
class _Header:
    """What a file says of its image: height and width as people see them; whether it is stored
    grey, with more than 8 bits a value, with 16-bit colours that Pillow cuts, in frames."""

    size: tuple[int, int]
    grey: bool
    deep: bool
    cut: bool
    frames: bool


def _headers(files: list[Path]) -> dict[int, _Header]:
    """The headers by row; a file whose header is broken is named by ``decode``, with those that
    break later."""

    def look(file: Path) -> _Header:
        with Image.open(file) as image:
            width, height = image.size
            stored = str(image.tile[0][3]) if image.tile else ""
            # Of a PNG the orientation may stand behind the pixels, which are then decoded.
            with _decoding(image) if image.format == "PNG" else nullcontext():
                turned = image.getexif().get(0x0112) in _TURNED
            size = (width, height) if turned else (height, width)
            deep = image.mode in _DEEP
            grey = image.mode in _GREY or stored.startswith("LA;16")
            cut = not deep and "16" in stored.partition(";")[2]
            return _Header(size, grey, deep, cut, _has_frames(image))

    found, _ = _each(files, look)
    return {row: header for row, header in enumerate(found) if header is not None}


def _has_frames(image: Image.Image) -> bool:
    if image.format not in ("GIF", "TIFF", "WEBP"):
        return False
    try:
        image.seek(1)
    except EOFError:
        return False
    return True


def _range_of_files(
    files: list[Path], headers: dict[int, _Header], train: np.ndarray
) -> tuple[tuple[float, ...], list[str]]:
    """The range of the training files with more than 8 bits a value, and a note."""
    deep = [row for row, header in headers.items() if header.deep]
    rows = sorted(set(deep) & set(train.tolist()))
    if not deep or not rows:
        return (), []

    def extremes(file: Path) -> tuple[float, float, bool]:
        with Image.open(file) as image, _decoding(image):
            values = np.asarray(image)
            return float(values.min()), float(values.max()), values.dtype.kind in "iu"

    found, _ = _each([files[row] for row in rows], extremes)
    known = [each for each in found if each is not None and np.isfinite(each[:2]).all()]
    if not known:
        return (), []  # decode names the files
    low, high = min(k[0] for k in known), max(k[1] for k in known)
    mixed = len(deep) < len(headers)
    pixel_range = _scale(low, high, all(whole for _, _, whole in known), mixed)
    if pixel_range in _USUAL:
        return pixel_range, []
    some = f"{len(deep)} of {len(files)} images have" if mixed else "the images have"
    note = f"{some} more than 8 bits a value: {_said(pixel_range)} become 0..255"
    return pixel_range, [note]


def _each(
    files: Sequence[Path], work: Callable[..., Any], *beside: Any
) -> tuple[list[Any], list[tuple[int, str]]]:
    """``work`` of every file, and the rows of those that cannot be decoded, with the reason."""
    errors = (
        OSError, ValueError, SyntaxError, EOFError, MemoryError, Image.DecompressionBombError
    )  # fmt: skip

    def reason(error: Exception) -> str:
        return "no image" if isinstance(error, UnidentifiedImageError) else str(error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on metadata that no pixel depends on
        return read_each(files, work, errors, reason, *beside)


def _plain(image: Image.Image, channels: int, pixel_range: tuple[float, ...]) -> Image.Image:
    """8-bit L or RGB, upright, transparent pixels on white.

    Raises ValueError for values of more than 8 bits where there is no range to scale them by.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode in _DEEP:
        values = np.asarray(image)
        if not pixel_range and not _is_eight_bit(values):
            raise ValueError(
                f"its values from {values.min():g} to {values.max():g} have more than 8 bits, but"
                " the training images have 8: convert it"
            )
        image = Image.fromarray(_scaled(values, pixel_range or (0, 255)))
    return _on_white(image, channels)


def _on_white(image: Image.Image, channels: int) -> Image.Image:
    """L or RGB of an image of 8 bits a value, transparent pixels on white."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB") if image.mode not in ("L", "1") else image
    return image.convert("L" if channels == 1 else "RGB")


def of_pillow(images: Sequence[Image.Image]) -> list[np.ndarray]:
    """Pillow's images as their files would be read: uint8 (H, W, 1) where all are grey, else
    (H, W, 3); those of more than 8 bits a value as they are, (H, W, 1)."""
    channels = 1 if all(image.mode in _GREY for image in images) else 3
    found = []
    for image in images:
        upright = ImageOps.exif_transpose(image)
        deep = upright.mode in _DEEP
        pixels = np.asarray(upright if deep else _on_white(upright, channels))
        found.append(pixels.reshape(*pixels.shape[:2], -1))
    return found


# Values of more than 8 bits --------------------------------------------------------------


def _scale(low: float, high: float, whole: bool, mixed: bool = False) -> tuple[float, float]:
    """The range that becomes 0..255, of training values between ``low`` and ``high``.

    Where the usual ranges of images (0..255, floats of 0..1) use most of the 256 grey levels
    they are kept; else it is the values' own range, so that 12 bits stored in 16 are not
    flattened. ``mixed`` with 8-bit images, the range begins at 0 and ends at the largest value
    of 10, 12, 14 or 16 bits.
    """
    if low >= 0 and whole and high <= 255:
        return 0.0, 255.0
    if low >= 0 and not whole and (0.5 < high <= 1 or 127 < high <= 255):
        return 0.0, 1.0 if high <= 1 else 255.0
    if low >= 0 and whole and (mixed or low == high):
        return 0.0, next((float(top) for top in _TOPS if high <= top), high)
    return low, high if high > low else low + 1


def _scaled(values: np.ndarray, pixel_range: tuple[float, ...]) -> np.ndarray:
    """uint8 of values, of which those of ``pixel_range`` become 0..255 and others are clipped.

    Raises ValueError where one is NaN or infinite.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("NaN or infinite values")
    low, high = pixel_range
    wide = (values.astype(np.float64) - low) * (255 / (high - low))
    eight: np.ndarray = wide.clip(0, 255).round().astype(np.uint8)
    return eight


def _is_eight_bit(values: np.ndarray) -> bool:
    """Whether values are whole and within 0..255."""
    inside = bool(((values >= 0) & (values <= 255)).all())  # not so for NaN
    return inside and (values.dtype.kind in "iub" or bool((values == np.round(values)).all()))


def _range_of_array(x: np.ndarray, train: np.ndarray) -> tuple[tuple[float, ...], list[str]]:
    """The range of the training rows of (n, C, H, W) and a note; () for values of 8 bits."""
    if x.dtype in (np.uint8, bool) or all(_is_eight_bit(x[r]) for r in _chunks(_rows(x), 1024)):
        return (), []
    if x.dtype.kind == "f" and not all(np.isfinite(x[r]).all() for r in _chunks(_rows(x), 1024)):
        raise InputError("some image values are NaN or infinite; replace them")
    colours = x[:, :3] if x.shape[1] == 4 else x
    low = min(float(colours[rows].min()) for rows in _chunks(train, 1024))
    high = max(float(colours[rows].max()) for rows in _chunks(train, 1024))
    pixel_range = _scale(low, high, x.dtype.kind in "iu")
    if pixel_range in _USUAL:
        return pixel_range, []
    return pixel_range, [f"image values of {_said(pixel_range)} become 0..255"]


def _eight_bit_array(x: np.ndarray, pixel_range: tuple[float, ...]) -> np.ndarray:
    """uint8 (n, 1 or 3, H, W) of (n, 1, 3 or 4, H, W); transparent pixels on white.

    Raises InputError for values beyond 8 bits where there is no range to scale them by.
    """
    if x.dtype == bool:
        x = x.astype(np.uint8) * np.uint8(255)
    if x.dtype != np.uint8:
        eight = np.empty(x.shape, np.uint8)
        for rows in _chunks(_rows(x), 1024):
            eight[rows] = _eight_bit_chunk(x[rows], pixel_range)
        x = eight
    if x.shape[1] == 4:
        alpha = x[:, 3:] / 255
        x = (x[:, :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)
    return np.ascontiguousarray(x)


def _eight_bit_chunk(x: np.ndarray, pixel_range: tuple[float, ...]) -> np.ndarray:
    low, high = float(x.min()), float(x.max())
    if not pixel_range:
        if _is_eight_bit(x):
            pixel_range = (0, 255)
        elif x.dtype.kind == "f" and low >= 0 and high <= 255:
            pixel_range = (0, 1 if high <= 1 else 255)
        else:
            raise InputError(
                f"image values run from {low:g} to {high:g}, but those of the training data are"
                " 0..255; scale them likewise"
            )
    try:
        scaled = _scaled(x, pixel_range)
    except ValueError as error:
        raise InputError(f"the images hold {error}; replace them") from None
    if x.shape[1] == 4:  # transparency has a range of its own
        alpha = x[:, 3:]
        whole = alpha.dtype.kind in "iu"
        top = 255 if whole and alpha.max() <= 255 else 65535 if whole else 1
        scaled[:, 3:] = _scaled(alpha, (0, top))
    return scaled


def _said(pixel_range: tuple[float, ...]) -> str:
    return f"{pixel_range[0]:g} to {pixel_range[1]:g} (the range of the training part)"


def _few_levels(pixels: np.ndarray, train: np.ndarray, pixel_range: tuple[float, ...]) -> list[str]:
    """A note where a few extreme values leave few grey levels to all others."""
    if not pixel_range:
        return []
    counts = _level_counts(pixels, train).sum(axis=0)
    first, last = np.searchsorted(counts.cumsum() / counts.sum(), (0.001, 0.999))
    if last - first + 1 >= FEW_LEVELS:
        return []
    return [
        f"99.8 % of the pixels share {last - first + 1} of 256 grey levels, because a few values"
        f" reach as far as {pixel_range[0]:g} or {pixel_range[1]:g}; clip these to see more"
    ]


def _cut_colours(pixels: np.ndarray, rows: list[int], train: np.ndarray) -> list[str]:
    """A note on images with 16-bit colours, of which Pillow reads the upper 8 bits.

    Raises InputError where these hold less than 6 bits.
    """
    if not rows:
        return []
    seen = [row for row in rows if row in set(train.tolist())] or rows
    if pixels[seen].max() < 64:
        raise InputError(
            f"{len(rows)} images have 16-bit colours that stay below a quarter of their range, and"
            " of 16-bit colours the upper 8 bits are read; convert them to 8 bits a colour"
        )
    return [f"{len(rows)} of {len(pixels)} images have 16-bit colours: the upper 8 bits are read"]


# Sizes -----------------------------------------------------------------------------------


def _common_size(sizes: np.ndarray, images: int, image_size: int | None) -> tuple[int, int]:
    if image_size is not None and image_size < SMALLEST:
        raise UsageError(f"image_size must be at least {SMALLEST}, but got {image_size}")
    median = np.median(sizes, axis=0)
    longer = image_size or min(median.max(), LARGEST if images < MANY else LARGEST_OF_MANY)
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
    """(n, C, H, W) of (n, H, W), (n, H, W, C) or (n, C, H, W), of whatever type and range."""
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
    if pixels.dtype.kind not in "biuf":
        raise InputError(f"images must be numbers, but X is of {pixels.dtype}")
    return pixels


def channel_statistics(pixels: np.ndarray, rows: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over the given images, of values in 0..1.

    From counts of the 256 values, so that no image is turned into floats.
    """
    counts = _level_counts(pixels, rows)
    share, values = counts / counts.sum(axis=1, keepdims=True), np.arange(256) / 255
    mean = share @ values
    std = np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))
    std[std == 0] = 1.0  # a black channel must not divide by zero
    return mean.tolist(), std.tolist()


def _level_counts(pixels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """int64 (C, 256): how often each channel of the given images has each value; of very many
    images, of ``MOST_COUNTED`` of them."""
    counts = np.zeros((pixels.shape[1], 256), np.int64)
    rows = rows[:: max(1, -(-len(rows) // MOST_COUNTED))]
    for chunk in _chunks(rows, max(1, COUNTED_BYTES // pixels[:1].nbytes)):
        for channel in range(pixels.shape[1]):
            counts[channel] += np.bincount(pixels[chunk, channel].ravel(), minlength=256)
    return counts


def _rows(x: np.ndarray) -> np.ndarray:
    return np.arange(len(x))


def _chunks(rows: np.ndarray, size: int) -> Iterable[np.ndarray]:
    return (rows[i : i + size] for i in range(0, len(rows), size))
