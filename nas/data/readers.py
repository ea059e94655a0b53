"""The readers: one module for each modality, all with the same five functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib import import_module
from typing import Any, Protocol, get_args

import numpy as np

from nas.data.ragged import Input
from nas.data.samples import Samples
from nas.task import DataProfile, Modality

MODALITIES: tuple[Modality, ...] = get_args(Modality)


class Reader(Protocol):
    """What ``nas.data.tabular``, ``nas.data.images`` and the others are: modules with these
    functions. A source is a path, a frame, ``Arrays`` or an object, see ``nas.data.sources``."""

    @staticmethod
    def recognise(source: Any) -> str:
        """Why a source plainly is of this modality, as a phrase for people; else ""."""

    @staticmethod
    def load(source: Any, target: list[str] | None, columns: Mapping[str, str]) -> Samples:
        """Labelled samples; ``columns`` are the types that the user gave to columns.

        Raises InputError or UsageError where the source is no such data.
        """

    @staticmethod
    def load_inputs(source: Any, as_written: Collection[str] = ()) -> Samples:
        """Samples to predict, labelled or not; ``as_written`` are columns of labels and
        categories, of which a file's texts are kept, see ``csv_files.read_csv``."""

    @staticmethod
    def code(
        samples: Samples, train: np.ndarray, **options: Any
    ) -> tuple[dict[str, Input], DataProfile, list[str]]:
        """The inputs by name, their profile on the rows ``train``, and notes.

        What is learnt from the data (means, categories, tokens) comes from the rows ``train``
        (k,) alone. The profile has no fingerprint and no split yet.
        """

    @staticmethod
    def encode(inputs: Any, profile: DataProfile) -> dict[str, Input]:
        """``Samples.inputs`` of new samples, coded by the profile alone."""


def reader(modality: Modality) -> Reader:
    """The reader of a modality; it and what it needs (pandas, Pillow) are imported now."""
    module: Any = import_module(f"nas.data.{modality}")
    return module  # type: ignore[no-any-return]
