"""Audio: folders, tables and arrays to samples; any sound file to a mono int16 wave."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas.data.column_types import ignored_only
from nas.data.dataset import shape_profile
from nas.data.folders import SOUNDS, read_each, refuse_bad
from nas.data.limits import refuse_larger, room_for
from nas.data.ragged import Ragged
from nas.data.samples import Arrays, Samples, label_frame, to_numpy
from nas.rules import WAVE_LONGEST_S
from nas.task import DataProfile, InputError, UsageError

HIGHEST_RATE = 16_000  # Hz: speech holds little above 8 kHz
ARRAY_RATE = 16_000  # Hz, of arrays, which do not say theirs
FASTEST_RATE = 2**20  # Hz: a header that names a higher one lies
WAVE_BYTES = 24  # that reading and averaging take for each value at the most
LOUDEST = 1.5  # of floats: what a codec may add to a wave in -1..1, and no scale of its own
QUIETEST = 32  # of int16, below which a wave of more bits has lost what it had
SHORTEST_ARRAY = 256  # values on average, above which a list of arrays is one of waves


def recognise(source: Any) -> str:
    if isinstance(source, Arrays):
        return "a list of waves" if _waves(source.x) else ""
    return SOUNDS.recognise(source)


def load(source: Any, target: list[str] | None, columns: Mapping[str, str]) -> Samples:
    """Sound files, or arrays of 16 kHz, with one label column (or those of the table).

    A sample of arrays is (length,) or (length, channels), of floats in -1..1 or of int16.
    """
    if not isinstance(source, Arrays):
        return SOUNDS.load(source, target, columns)
    ignored_only(columns, (), "audio")
    if source.y is None:
        raise UsageError("a list of waves needs its labels; give (waves, labels)")
    waves, labels = _arrays(source.x), label_frame(source.y, target)
    if len(labels) != len(waves):
        raise InputError(f"X has {len(waves)} waves, but y has {len(labels)}")
    return Samples(waves, labels, source.given, labels)


def load_inputs(source: Any, as_written: Collection[str] = ()) -> Samples:
    """Sounds to predict, labelled or not: a folder, a table, one file, or arrays."""
    if not isinstance(source, Arrays):
        return SOUNDS.load_inputs(source, as_written)
    waves = _arrays(source.x)
    labels = pd.DataFrame(index=range(len(waves)))
    return Samples(waves, labels if source.y is None else label_frame(source.y, None))


def code(samples: Samples, train: np.ndarray) -> tuple[dict[str, Ragged], DataProfile, list[str]]:
    """The waves at the training files' commonest rate or 16 kHz, whichever is lower."""
    formats = _each(samples.inputs, _format)
    rates = [rate for rate, _, _ in formats]
    counts = pd.Series([rates[row] for row in train]).value_counts()
    rate = min(int(counts[counts == counts.max()].index.max()), HIGHEST_RATE)
    needed = sum(2 * rate * min(seconds, WAVE_LONGEST_S) for _, _, seconds in formats)
    refuse_larger(needed, f"{len(formats)} sounds at {rate} Hz need", "give fewer or shorter ones")
    waves = _each(samples.inputs, lambda sound: _wave(sound, rate))
    notes = []
    if others := sorted({r for r in rates if r != rate}):
        changed = sum(r != rate for r in rates)
        shown = ", ".join(map(str, others[:4]))
        notes.append(f"{changed} of {len(rates)} sounds are resampled from {shown} to {rate} Hz")
    if mixed := sum(channels > 1 for _, channels, _ in formats):
        notes.append(f"{mixed} of {len(rates)} sounds have several channels, which are averaged")
    if cut := sum(seconds > WAVE_LONGEST_S for _, _, seconds in formats):
        notes.append(f"{cut} of {len(rates)} sounds are cut after {WAVE_LONGEST_S:g} seconds")
    faded = map(_has_faded, samples.inputs, waves)
    if quiet := sum(faded):
        notes.append(
            f"{quiet} of {len(rates)} sounds of more than 16 bits stay below {QUIETEST} of the"
            " 32768 levels that are kept: make them louder"
        )
    if silent := sum(not wave.any() for wave in waves):
        notes.append(f"{silent} of {len(rates)} sounds are silent")
    inputs = {"wave": Ragged.of(waves)}
    return inputs, replace(shape_profile(inputs, train), sample_rate=rate), notes


def encode(inputs: Any, profile: DataProfile) -> dict[str, Ragged]:
    """New sounds at the rate of the training data."""
    rate = profile.sample_rate
    return {"wave": Ragged.of(_each(inputs, lambda sound: _wave(sound, rate)))}


# Waves -----------------------------------------------------------------------------------


def _format(sound: Path | np.ndarray) -> tuple[int, int, float]:
    """Sample rate in Hz, channels, seconds; of a file by its header alone."""
    if isinstance(sound, np.ndarray):
        return ARRAY_RATE, 1 if sound.ndim == 1 else sound.shape[1], len(sound) / ARRAY_RATE
    import soundfile

    about = soundfile.info(sound)
    return about.samplerate, about.channels, about.frames / about.samplerate


def _wave(sound: Path | np.ndarray, rate: int) -> np.ndarray:
    """int16 (length,): the mean of the channels, at ``rate``, cut at the longest allowed.

    Raises ValueError where there is nothing to hear.
    """
    if isinstance(sound, np.ndarray):
        values, found = sound, ARRAY_RATE
    else:
        import soundfile

        about = soundfile.info(sound)
        if about.samplerate > FASTEST_RATE:
            raise ValueError(f"a rate of {about.samplerate} Hz, more than {FASTEST_RATE} Hz")
        most = math.ceil(WAVE_LONGEST_S * about.samplerate)
        # int16 files come back as they are; floats are scaled to -1..1 by the format itself.
        kind = "int16" if about.subtype == "PCM_16" else "float32"
        held = min(most, about.frames) * about.channels * WAVE_BYTES
        with room_for(held, "reading it"):
            values, found = soundfile.read(sound, frames=most, dtype=kind)
        if kind == "float32" and len(values) and (loudest := np.abs(values).max()) > LOUDEST:
            raise ValueError(f"it reaches {loudest:g}, but sounds of floats lie in -1..1")
    values = values[: math.ceil(WAVE_LONGEST_S * found)]
    if not len(values):
        raise ValueError("no samples")
    if not np.isfinite(values).all():
        raise ValueError("NaN or infinite values")
    if values.dtype == np.int16 and values.ndim == 1 and found == rate:
        return np.asarray(values)
    scale = 1.0 if values.dtype == np.int16 else 32767.0
    mono = values.astype(np.float64)
    if mono.ndim == 2:
        mono = mono.mean(axis=1)
    if found != rate:
        from scipy.signal import resample_poly

        common = math.gcd(found, rate)
        mono = resample_poly(mono, rate // common, found // common)
    wave: np.ndarray = np.round(mono * scale).clip(-32768, 32767).astype(np.int16)
    return wave[: math.ceil(WAVE_LONGEST_S * rate)]


def _has_faded(sound: Path | np.ndarray, wave: np.ndarray) -> bool:
    """Whether a wave that is not silent was stored with more than 16 bits, and few are left."""
    if not wave.any() or np.abs(wave.astype(np.int32)).max() >= QUIETEST:
        return False
    if isinstance(sound, np.ndarray):
        return sound.dtype.kind == "f"
    import soundfile

    return soundfile.info(sound).subtype in ("PCM_24", "PCM_32", "FLOAT", "DOUBLE")


def _each(sounds: Sequence[Any], work: Callable[[Any], Any]) -> list[Any]:
    """``work`` of every sound; all that fail are named at once."""
    errors = (OSError, ValueError, RuntimeError)  # soundfile's are RuntimeErrors

    def reason(error: Exception) -> str:
        return str(error).split(": ")[-1].strip().rstrip(".")

    found, bad = read_each(sounds, work, errors, reason)
    refuse_bad(sounds, bad, "sounds", "wave")
    return found


def _waves(x: Any) -> bool:
    """Whether arrays plainly are waves: one-dimensional, long, of floats or int16."""
    if not isinstance(x, list) or not all(hasattr(wave, "dtype") for wave in x):
        return False
    kinds = {str(wave.dtype).removeprefix("torch.") for wave in x}
    if not kinds <= {"float16", "float32", "float64", "int16"} or any(w.ndim != 1 for w in x):
        return False
    return bool(x) and sum(map(len, x)) / len(x) >= SHORTEST_ARRAY


def _arrays(x: Any) -> list[np.ndarray]:
    """Each sample as (length,) or (length, channels), of int16 or of floats in -1..1."""
    waves = []
    for row, sample in enumerate(x):
        wave = to_numpy(sample)
        if wave.ndim not in (1, 2) or wave.dtype.kind not in "iuf":
            raise InputError(
                f"wave {row + 1} has the shape {wave.shape} and the type {wave.dtype}; expected"
                " numbers of the shape (length,) or (length, channels)"
            )
        if wave.dtype.kind in "iu":
            if len(wave) and (wave.min() < -32768 or wave.max() > 32767):
                raise InputError(f"wave {row + 1} of {wave.dtype} is outside of int16; scale it")
            wave = wave.astype(np.int16)
        elif len(wave) and (loudest := np.abs(wave).max()) > LOUDEST:
            raise InputError(
                f"wave {row + 1} of {wave.dtype} reaches {loudest:g}; floats are waves in -1..1:"
                " scale them, or give int16"
            )
        waves.append(wave)
    return waves
