"""A trained network as a folder that needs nothing of this project: code, weights, and a test.

``model.py`` imports torch alone, ``preprocess.py`` NumPy and what reads the files of the modality.
Both are taken from the project's own code (``nas.export.source``), so that they cannot say
anything else. The folder repeats its recorded predictions before it is handed over.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from importlib.metadata import requires
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nas.data import categories, encode, long_tables
from nas.data.folders import SERIES, Files
from nas.data.multimodal import JOINED, Manifest
from nas.data.ragged import Whole
from nas.data.readers import reader
from nas.data.series_files import Sequences, archive_files
from nas.data.sources import open_source
from nas.data.targets import columns_of
from nas.export.card import model_card
from nas.export.network_source import literal, network_source
from nas.export.source import Bundle, Key, distributions, import_lines
from nas.files import write_whole
from nas.task import DataProfile, InputError, SelfCheckFailed, SeriesForm, Task
from nas.training.neighbours import network_inputs
from nas.training.proxy import build_network
from nas.training.proxy import predict as predictions_of

if TYPE_CHECKING:
    from nas.export.trained import Trained

EXAMPLES = 10
_TEMPLATES = Path(__file__).parent / "folder"
# A machine of a user's has no limits of a search: what guards memory is left out.
_WITHOUT_LIMITS: dict[Key, str] = {
    ("nas.data.limits", "refuse_larger"): (
        "def refuse_larger(needed: float, what: str, repair: str) -> None:\n"
        '    """Every size is read."""'
    ),
    ("nas.data.limits", "room_for"): (
        "@contextmanager\n"
        "def room_for(needed: float, what: str) -> Iterator[None]:\n"
        '    """Every size is read."""\n'
        "    yield"
    ),
    ("nas.data.csv_pieces", "is_large"): (
        "def is_large(path: Path) -> bool:\n"
        '    """Every table is read at once."""\n'
        "    return False"
    ),
    ("nas.data.csv_pieces", "read_large_csv"): (
        "def read_large_csv(*given: Any) -> None:\n"
        '    """There is no large table."""\n'
        "    raise NotImplementedError"
    ),
    ("nas.task", "JsonRecord"): (
        'class JsonRecord:\n    """A record that preprocess.json holds."""'
    ),
}


def write_standalone(trained: Trained, folder: Path) -> Path:
    """Write the folder of a trained network.

    Args:
        trained: The network, its data, and what is known of it.
        folder: Made if it is not there; files of the same names are replaced.

    Raises:
        InputError: The network or its reader cannot be written as code, or ``folder`` is a file.
        SelfCheckFailed: The folder does not repeat the predictions of the network. It is kept
            beside, under a name that the message says.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as name:
        made = Path(name) / folder.name  # with the permissions of any folder, which it hands on
        made.mkdir()
        _fill(trained, made)
        _repeat(made, folder.with_name(f"{folder.name}-failed"))
        if (folder / "test_predictions.py").is_file():  # what another network had, and this has not
            (folder / "errors.json").unlink(missing_ok=True)
            shutil.rmtree(folder / "examples", ignore_errors=True)
        shutil.copytree(made, folder, dirs_exist_ok=True)
    return folder


def _fill(trained: Trained, folder: Path) -> None:
    from safetensors.torch import save_file

    proxy, dataset = trained.proxy, trained.dataset
    rows = dataset.parts["test"][:EXAMPLES]
    inputs = network_inputs(proxy.network, dataset, rows)
    weights = {
        name: value.contiguous().clone() for name, value in proxy.network.state_dict().items()
    }
    save_file(weights, folder / "model.safetensors")
    code = network_source(
        lambda: build_network(proxy.family, proxy.config, proxy.task),
        proxy.network,
        inputs,
        f"network_{trained.fingerprint[:8]}",
    )
    head = literal(f"{trained.title}.", '"""')
    write_whole(folder / "model.py", f"{head}\n\n{code}")
    source = preprocess_source(proxy.task)
    write_whole(folder / "preprocess.py", source)
    task = proxy.task
    settings = {
        "modality": task.modality,
        "as_written": sorted({*columns_of(task.targets), *categories(task.profile)}),
        "profile": _needed(task.profile),
    }
    write_whole(folder / "preprocess.json", json.dumps(settings, indent=1))
    labels = [
        {
            "name": t.name,
            "kind": t.kind,
            "labels": list(t.labels),
            "mean": t.mean,
            "std": t.std,
            "separator": t.separator,
            "temperature": proxy.temperature(t.name),
        }
        for t in task.targets
    ]
    write_whole(folder / "labels.json", json.dumps(labels, indent=1))
    if proxy.val_errors:
        write_whole(folder / "errors.json", json.dumps(proxy.val_errors))
    for name, file in (("predict.py", "predict.py"), ("test_predictions.py", "repeat.py")):
        write_whole(folder / name, _without_hints((_TEMPLATES / file).read_text(encoding="utf-8")))
    needed = sorted(requirements(code, source, (folder / "predict.py").read_text()))
    write_whole(folder / "requirements.txt", "\n".join(needed) + "\n")
    write_whole(folder / "README.md", model_card(trained, needed))
    _examples(trained, folder / "examples", inputs)


def _without_hints(text: str) -> str:
    return re.sub(r"\s*# (?:noqa|type: ignore).*$", "", text, flags=re.MULTILINE)


def _needed(profile: DataProfile) -> dict[str, Any]:
    """The profile without what only a search needs."""
    about = profile.to_dict()
    for name in ("fingerprint", "split", "split_method"):
        about.pop(name)
    for column in about["columns"]:
        for name in ("quantiles", "missing", "mean", "std"):
            column.pop(name)
    about["members"] = {
        name: {"modality": member.modality, "profile": _needed(member.profile)}
        for name, member in profile.members.items()
    }
    return about


# -- preprocess.py ---------------------------------------------------------------------------------


def preprocess_source(task: Task) -> str:
    """The code that reads new files of the task's modality as the network takes them."""
    members: set[str] = {member.modality for member in task.profile.members.values()}
    replaced = {**_WITHOUT_LIMITS, **_reader(task.modality, members)}
    module = reader(task.modality)
    if task.profile.series is not None:
        replaced |= _load_series(task.profile.series)
    elif kinds := _files(module):
        replaced |= _load_files(task.modality, kinds)
    if "series" not in (task.modality, *members):
        replaced["nas.export.folder.inputs", "series_form"] = (
            "def series_form(about: None) -> None:\n"
            '    """There are no sequences of numbers here."""'
        )
    if task.modality == "graphs":
        replaced["nas.export.folder.inputs", "ARCHIVES"] = (
            "ARCHIVES: tuple[str, ...] = ()  # an archive is a graph here"
        )
    for name in ("from_files", "load_inputs"):
        if members and "graphs" not in members:
            where = "nas.data.graphs.archives" if name == "from_files" else "nas.data.graphs"
            replaced[where, name] = (
                f"def {name}(source: object) -> None:\n"
                '    raise InputError("no column of the training data held graphs")'
            )
    bundle = Bundle(
        [
            ("nas.export.folder.inputs", "load"),
            ("nas.export.folder.inputs", "batches"),
            ("nas.show", "no_formula"),
        ],
        replaced=replaced,
    )
    imports = bundle.imports()
    body = bundle.body()
    title = f'"""Files of {task.modality} as the network reads them."""'
    return f"{title}\n\nfrom __future__ import annotations\n\n{import_lines(imports)}\n\n\n{body}"


def _reader(modality: str, members: set[str]) -> dict[Key, str]:
    """``nas.data.readers.reader`` for these modalities alone, whose modules it cannot import."""
    lines = ["def reader(modality: str) -> Any:", '    """The functions that read a modality."""']
    entries = []
    for name in sorted({modality, *members}):
        module = reader(name).__name__  # type: ignore[arg-type, attr-defined]
        lines.append(f"    from {module} import encode as encode_{name}")
        functions = [f"encode=encode_{name}"]
        if name == modality:
            lines.append(f"    from {module} import load_inputs as load_{name}")
            functions.append(f"load_inputs=load_{name}")
        entries.append(f"        {name!r}: SimpleNamespace({', '.join(functions)}),")
    lines.insert(2, "    from types import SimpleNamespace")
    body = "\n".join([*lines, "    known = {", *entries, "    }", "    return known[modality]"])
    return {("nas.data.readers", "reader"): body}


def _files(module: Any) -> list[Files]:
    """What a reader's samples are files of, the usual kind first; none where they are rows or
    graphs."""
    single = hasattr(module, "_arrays") or hasattr(module, "_channels_first")
    return [v for v in vars(module).values() if isinstance(v, Files)] if single else []


def _load_files(modality: str, kinds: Sequence[Files]) -> dict[Key, str]:
    module = reader(modality)  # type: ignore[arg-type]
    arrays = "_arrays" if hasattr(module, "_arrays") else "_channels_first"
    hdf5 = """
    if files := _hdf5_files(source):
        return _load_hdf5(files, None, labelled=False)"""
    text = f'''
def load_inputs(source: Any, as_written: Any = ()) -> Any:
    """The files of a folder, or the arrays of an archive."""
    from nas.export.folder.files import files_of

    if isinstance(source, Arrays):
        return {arrays}(source.x){hdf5 if hasattr(module, "_hdf5_files") else ""}
    return files_of(source, {", ".join(map(_endings, kinds))})
'''.strip()
    return {(module.__name__, "load_inputs"): text}  # type: ignore[attr-defined]


def _endings(of: Files) -> str:
    """All endings of a kind of files, as code."""
    names = ", ".join(f'"{ending}"' for ending in sorted(of.suffixes))
    lines = textwrap.indent(textwrap.fill(names, 88), " " * 8)
    return f"(\n{lines},\n    )"


def _load_series(form: SeriesForm) -> dict[Key, str]:
    """How sequences are read that came in the form of the training data's."""
    body = f"""
    if isinstance(source, Arrays):
        return Sequences(_arrays(source.x))
    if files := archive_files(source):
        return read_archive_files(files, None, labelled=False)
    return files_of(source, {SERIES.common!r})"""
    if form.columns:
        body = """
    if isinstance(source, Arrays):
        return Sequences(_arrays(source.x))
    return tabular.load_inputs(source, as_written)"""
    if form.is_long:
        body = """
    return gather_new(source, profile(settings()["profile"]), as_written)"""
    text = f'''
def load_inputs(source: Any, as_written: Any = ()) -> Any:
    """The sequences of a file or folder."""
    from nas.data.long_tables import gather_new
    from nas.export.folder.files import files_of
    from nas.export.folder.inputs import profile, settings
{body}
'''.strip()
    return {("nas.data.series", "load_inputs"): text}


# -- requirements ----------------------------------------------------------------------------------


def requirements(*sources: str) -> set[str]:
    """What files of code import, each from the lowest version that this project takes it in. What
    only some files of people need (other sample rates, spreadsheets) is left to them."""
    known = {}
    for line in requires("frontier-nas") or ():
        needed, _, condition = line.partition(";")
        name = re.match(r"[\w.-]+", needed)
        if name is not None and "extra" not in condition:
            known[name[0].lower()] = needed.strip()
    names = {name.lower() for text in sources for name in distributions(text)} & known.keys()
    if "pandas" in names:
        names.discard("numpy")  # which comes with it
    names.discard("pyarrow")  # of a Parquet table alone
    return {known[name] for name in names}


# -- examples --------------------------------------------------------------------------------------


def _examples(trained: Trained, folder: Path, inputs: Mapping[str, Tensor]) -> None:
    """Ten samples of the test part as the network reads them and, where they are rows or files, as
    they were found; and what it predicts of them."""
    import pandas as pd
    from safetensors.torch import save_file

    folder.mkdir()
    proxy = trained.proxy
    with torch.inference_mode():
        outputs = proxy.network(**inputs)
    tensors = {name: value.contiguous().clone() for name, value in inputs.items()}
    save_file({**tensors, "outputs": outputs.contiguous().clone()}, folder / "inputs.safetensors")
    source = _raw(trained, folder)
    found: dict[str, Any] = {}
    if source:
        task = proxy.task
        given: Any = folder / source
        if given.is_dir() and task.profile.series is None:  # a folder of .txt may hold texts
            given = pd.DataFrame({"file_name": sorted(map(str, given.iterdir()))})
        encoded = encode(given, task.profile, task.modality, task.targets)
        predicted = predictions_of(proxy, encoded.inputs)
        found = {name: np.asarray(value).tolist() for name, value in predicted.items()}
    recorded = {"source": source, "predictions": found}
    write_whole(folder / "predictions.json", json.dumps(recorded, indent=1))


def _raw(trained: Trained, folder: Path) -> str:
    """Copies ten samples of the source; their file or folder, "" where the source is neither."""
    import pandas as pd

    path = trained.source
    if path is None or any(isinstance(v, Whole) for v in trained.dataset.inputs.values()):
        return ""
    read_by = reader(trained.dataset.modality)
    table = path
    if path.is_dir() and (tables := sorted(path.glob("test.*"))):
        table = tables[0]
    form = trained.task.profile.series
    try:
        if form is not None and form.is_long:
            return _raw_rows(path, form, folder)
        samples = read_by.load_inputs(open_source(table, predict=True))
    except (InputError, OSError):
        return ""  # the data has gone; the recorded inputs remain
    content = samples.inputs
    if isinstance(content, pd.DataFrame):
        content.head(EXAMPLES).to_csv(folder / "examples.csv", index=False)
        return "examples.csv"
    if isinstance(content, Manifest):
        return _raw_manifest(content, trained.task.profile, folder)
    if isinstance(content, list) and isinstance(content[0], Path):
        (folder / "files").mkdir()
        step = max(1, len(content) // EXAMPLES)
        for i, file in enumerate(content[::step][:EXAMPLES]):
            shutil.copyfile(file, folder / "files" / f"{i}{file.suffix}")
        return "files"
    if isinstance(content, Sequences) and (archives := archive_files(path)):
        return _raw_lines([*archives][-1], folder)
    arrays = content.values if isinstance(content, Sequences) else content
    if not isinstance(arrays, (list, np.ndarray)):
        return ""
    first = [each for each in arrays[:EXAMPLES] if isinstance(each, np.ndarray)]
    if len({each.shape for each in first}) == 1:
        np.savez_compressed(folder / "examples.npz", x=np.stack(first))
        return "examples.npz"
    return ""


def _raw_manifest(manifest: Manifest, profile: DataProfile, folder: Path) -> str:
    """The first rows of a manifest, and copies of the files that its members name."""
    rows = manifest.frame.head(EXAMPLES).copy()
    members = [name for name, member in profile.members.items() if member.modality not in JOINED]
    for place, name in enumerate(name for name in members if name in rows):
        rows[name] = [
            _copied(manifest.folder, str(value).strip(), folder / f"{place}-{row}")
            for row, value in enumerate(rows[name])
        ]
    rows.to_csv(folder / "examples.csv", index=False)
    return "examples.csv"


def _raw_rows(source: Path, form: SeriesForm, folder: Path) -> str:
    """The rows of the last sequences of a long table."""
    frame = long_tables.tables_of(source, form.sequence)[0][-1][0]
    if form.sequence:
        last = frame[form.sequence].drop_duplicates().tail(EXAMPLES)
        frame = frame[frame[form.sequence].isin(last)]
    frame.to_csv(folder / "examples.csv", index=False)
    return "examples.csv"


def _raw_lines(archive: Path, folder: Path) -> str:
    """The header and the first samples of a .ts or .arff file, which has a line for each."""
    lines = archive.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines, 1) if line.strip().lower() == "@data")
    found = [line for line in lines[start:] if line.strip()][:EXAMPLES]
    name = f"examples{archive.suffix.lower()}"
    write_whole(folder / name, "\n".join([*lines[:start], *found]) + "\n")
    return name


def _copied(base: Path, name: str, copy: Path) -> str:
    """The name of a copy of a file, with its ending; "" where it is none inside ``base``."""
    try:
        file = (base / name).resolve()
        if not (file.is_relative_to(base.resolve()) and file.is_file()):
            return ""
    except (OSError, ValueError):  # no file has such a name
        return ""
    copy = copy.with_suffix(Path(name).suffix)
    shutil.copyfile(file, copy)
    return copy.name


def _repeat(folder: Path, kept: Path) -> None:
    """Run the folder's test in a process of its own; where it fails the folder is copied to
    ``kept``."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", str(folder / "test_predictions.py")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        shutil.copytree(folder, kept, dirs_exist_ok=True)
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise SelfCheckFailed(
            f"the folder does not repeat the predictions ({reason:.200}); it is kept in {kept}"
        )
