"""New samples in pieces, so that memory does not grow with a file or a folder."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from nas.data.csv_files import MISSING
from nas.data.csv_pieces import read_csv_pieces
from nas.data.pipes import is_pipe
from nas.data.tables import CSV, in_one_line
from nas.task import Modality


def pieces(
    source: Any, modality: Modality, as_written: Collection[str], rows: int, files: int
) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """The parts of a source that ``nas.data.encode`` takes one after the other, in their order, and
    the names of their files where these are others than it finds.

    Tables of numbers and of texts in CSV come ``rows`` at a time, and folders of which each sample
    is a file ``files`` at a time; all else comes whole.
    """
    path = Path(source).expanduser() if isinstance(source, (str, Path)) else None
    if path is None or not path.exists() or is_pipe(path):
        yield source, ()
        return
    if path.is_file() and path.name.lower().endswith(CSV) and modality in ("tabular", "text"):
        missing = () if modality == "text" else MISSING
        with in_one_line(path):
            for part in read_csv_pieces(path, rows, as_written, missing):
                yield part, ()
        return
    if path.is_dir():
        found = _file_lists(path, modality, files)
        if found is not None:
            yield from found
            return
    yield source, ()


def _file_lists(
    folder: Path, modality: Modality, files: int
) -> Iterator[tuple[Any, tuple[str, ...]]] | None:
    """Frames that list the files of a folder, and their names in it; None where its samples are no
    files of their own."""
    import pandas as pd

    from nas.data.readers import reader

    if modality in ("tabular", "text", "graphs", "multimodal"):
        return None
    samples = reader(modality).load_inputs(folder)
    inputs, labels = samples.inputs, samples.labels
    if not isinstance(inputs, list) or len(inputs) <= files or not isinstance(inputs[0], Path):
        return None

    def parts() -> Iterator[tuple[Any, tuple[str, ...]]]:
        for start in range(0, len(inputs), files):
            chosen = slice(start, start + files)
            frame = pd.DataFrame({"file_name": [str(p.resolve()) for p in inputs[chosen]]})
            for name in labels:
                frame[name] = labels[name].iloc[chosen].to_numpy()
            yield frame, tuple(name for name, _ in samples.files[chosen])

    return parts()
