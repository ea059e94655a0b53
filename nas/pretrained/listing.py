"""What pretrained networks are at hand: those that are named, and those in the hub's cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.pretrained.sources import describe
from nas.task import InputError


@dataclass(frozen=True)
class Listed:
    """A source, and what it is; or why it cannot be used (``error``)."""

    source: str
    modality: str = ""
    architecture: str = ""
    size_mb: float = 0.0
    licence: str = ""
    trained_on: str = ""
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        return dict(vars(self))


def listed(sources: Sequence[str], modality: str | None = None) -> list[Listed]:
    """The given sources, or all in the hub's cache; of one ``modality`` where it is given.
    Of the cache only what can be used is shown."""
    found = [_described(source) for source in (sources or _cached())]
    if not sources:
        found = [entry for entry in found if not entry.error]
    return [e for e in found if modality is None or e.modality in ("", modality)]


def _described(source: str) -> Listed:
    try:
        checkpoint = describe(source)
    except InputError as error:
        return Listed(source, error=str(error))
    size = Path(checkpoint.path).stat().st_size / 2**20
    about = (checkpoint.licence or "not stated", checkpoint.trained_on or "not stated")
    return Listed(source, checkpoint.modality, checkpoint.architecture, size, *about)


def _cached() -> Iterator[str]:
    """The ids of networks in the cache of the Hugging Face hub; nothing is downloaded."""
    try:
        from huggingface_hub import CacheNotFound, scan_cache_dir
    except ImportError:
        return
    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return
    for repository in sorted(repositories, key=lambda r: r.repo_id):
        if repository.repo_type == "model":
            newest = max(repository.revisions, key=lambda r: r.last_modified)
            yield str(newest.snapshot_path)
