"""Texts in files: class folders of .txt files, a text each."""

from __future__ import annotations

from pathlib import Path

from nas.data.cloud_files import is_text_cloud
from nas.data.folders import CLOUDS, IMAGES, SOUNDS, Files, read_each, refuse_bad
from nas.data.samples import Arrays

TEXTS = Files((".txt",), "text")


def text_folder(folder: Path, *, predict: bool = False) -> Arrays | None:
    """The texts of a folder's .txt files with their class folders as labels; None where these
    hold other data, or where there are none in class folders.

    Raises InputError, which names all files that are not UTF-8.
    """
    files = TEXTS.find(folder)
    if not files or (files[0].parent == folder and not predict):
        return None
    if any(kind.any_in(folder) for kind in (IMAGES, SOUNDS, CLOUDS)) or is_text_cloud(files[0]):
        return None
    samples = TEXTS.load_inputs(folder) if predict else TEXTS.load(folder, None, {})

    def text(path: Path) -> str:
        return path.read_text(encoding="utf-8-sig")

    def reason(error: Exception) -> str:
        return "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)

    texts, bad = read_each(samples.inputs, text, (OSError, UnicodeDecodeError), reason)
    refuse_bad(samples.inputs, bad, "texts", "text")
    labels = samples.labels if samples.labels.shape[1] else None
    return Arrays(texts, labels, samples.given, folder.name, samples.notes)
