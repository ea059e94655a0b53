"""Folders of files: no sample is lost or added without a note, whatever the layout."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from PIL import Image

from nas.data import Dataset, encode, read
from nas.data.folders import CLOUDS, IMAGES, SOUNDS, walk
from nas.task import InputError, UsageError

RNG = np.random.default_rng(0)
PER_CLASS = 8


def picture(path: Path) -> None:
    Image.fromarray(RNG.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path, "JPEG")


def sound(path: Path) -> None:
    soundfile.write(path, 0.3 * RNG.normal(size=2000).clip(-3, 3), 8000, format="WAV")


def cloud(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, RNG.normal(size=(30, 3)).astype(np.float32))


KINDS: dict[str, tuple[str, str, Callable[[Path], None]]] = {
    "images": (".jpg", "image", picture),
    "audio": (".wav", "wave", sound),
    "pointclouds": (".npy", "points", cloud),
}


def classes(root: Path, kind: str, names: tuple[str, ...] = ("a", "b")) -> Path:
    ending, _, write = KINDS[kind]
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(PER_CLASS):
            write(root / name / f"{i}{ending}")
    return root


def size(data: Dataset, kind: str) -> int:
    assert data.modality == kind
    return len(data.inputs[KINDS[kind][1]])


def hide_in_class_folders(root: Path, ending: str) -> None:
    for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".git"):
        shutil.copytree(root / "a", root / "b" / name, dirs_exist_ok=True)


def hide_beside_class_folders(root: Path, ending: str) -> None:
    shutil.copytree(root / "a", root / "__MACOSX" / "a")
    shutil.copytree(root / "a", root / ".ipynb_checkpoints")
    shutil.copy(root / "a" / f"0{ending}", root / "a" / f"._0{ending}")
    (root / "a" / "Thumbs.db").write_bytes(b"x")


def link_a_class(root: Path, ending: str) -> None:
    away = root.with_name("away")
    (root / "b").rename(away)
    (root / "b").symlink_to(away, target_is_directory=True)


def link_to_itself(root: Path, ending: str) -> None:
    (root / "a" / "again").symlink_to(root, target_is_directory=True)
    (root / "a" / "up").symlink_to(root / "a", target_is_directory=True)


def link_each_file(root: Path, ending: str) -> None:
    for file in list(walk(root / "b")):
        file.rename(root.with_name(f"linked-{file.name}"))
        file.symlink_to(root.with_name(f"linked-{file.name}"))


def wrap(root: Path, ending: str) -> None:
    root.rename(root.with_name("inner"))
    root.mkdir()
    root.with_name("inner").rename(root / "dataset-v1")
    (root / ".DS_Store").touch()


def deepen(root: Path, ending: str) -> None:
    (root / "a").rename(root / "inner")
    (root / "a").mkdir()
    (root / "inner").rename(root / "a" / "photos")


LAYOUTS = [hide_in_class_folders, hide_beside_class_folders, link_a_class, link_to_itself,
           link_each_file, wrap, deepen]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", LAYOUTS, ids=lambda f: f.__name__)
def test_every_file_of_the_user_is_one_sample(
    tmp_path: Path, kind: str, change: Callable[[Path, str], None]
) -> None:
    root = classes(tmp_path / "data", kind)
    change(root, KINDS[kind][0])
    data = read(root)
    assert size(data, kind) == 2 * PER_CLASS
    assert data.targets[0].classes == ("a", "b")
    new = encode(root, data.profile, data.modality, data.targets)
    assert len(new.names) == len(set(new.names)) == 2 * PER_CLASS
    assert len(new.labels["label"]) == 2 * PER_CLASS


def test_links_to_the_part_folders_are_followed(tmp_path: Path) -> None:
    for part in ("train", "test"):
        classes(tmp_path / "away" / part, "images")
    (tmp_path / "data").mkdir()
    for part in ("train", "test"):
        (tmp_path / "data" / part).symlink_to(tmp_path / "away" / part, target_is_directory=True)
    data = read(tmp_path / "data")
    assert (size(data, "images"), len(data.parts["test"])) == (4 * PER_CLASS, 2 * PER_CLASS)


@pytest.mark.parametrize("kind", KINDS)
def test_part_folders_inside_of_class_folders_are_the_parts(tmp_path: Path, kind: str) -> None:
    for part in ("train", "test"):
        for name in "ab":
            inner = classes(tmp_path / "made" / part, kind, (name,)) / name
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            inner.rename(tmp_path / "data" / name / part)
    data = read(tmp_path / "data")
    assert len(data.parts["test"]) == 2 * PER_CLASS


def test_train_is_a_class_where_it_holds_files_beside_other_classes(tmp_path: Path) -> None:
    data = read(classes(tmp_path / "vehicles", "images", ("bus", "car", "train")))
    assert data.targets[0].classes == ("bus", "car", "train")


def test_one_part_folder_alone_is_not_taken_for_a_wrapper(tmp_path: Path) -> None:
    root = classes(tmp_path / "data" / "train", "images")
    assert size(read(root.parent), "images") == 2 * PER_CLASS
    classes(tmp_path / "data" / "test", "images")
    assert len(read(root.parent).parts["test"]) == 2 * PER_CLASS


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_other_kinds_in_class_folders_are_counted_in_a_note(
    tmp_path: Path, kind: str
) -> None:
    root = classes(tmp_path / "data", kind)
    for i in range(3):
        (root / "a" / f"{i}.mov").write_bytes(b"x")
    (root / "b" / "scan").write_bytes(b"x")
    (root / "b" / f"gone{KINDS[kind][0]}").symlink_to(tmp_path / "nowhere")
    data = read(root)
    note = next(note for note in data.notes if "files are not read" in note)
    assert note.startswith("5 files are not read")
    assert all(words in note for words in (".mov: 3", "no ending: 1", "broken links: 1"))
    assert any(".mov: 3" in n for n in encode(root, data.profile, kind, data.targets).notes)


def test_files_beside_the_class_folders_and_below_them_are_noted(tmp_path: Path) -> None:
    root = classes(tmp_path / "data", "images")
    picture(root / "stray.jpg")
    deepen(root, ".jpg")
    notes = read(root).notes
    assert any("1 image files beside the class folders" in n and "stray.jpg" in n for n in notes)
    assert any(f"{PER_CLASS} of {2 * PER_CLASS} files lie deeper" in note for note in notes)


def test_files_that_a_table_does_not_name_are_noted(tmp_path: Path) -> None:
    root = classes(tmp_path / "data", "images")
    names = sorted(str(path.relative_to(root)) for path in walk(root))
    table = pd.DataFrame({"file_name": names[:-3], "label": [name[0] for name in names[:-3]]})
    table.to_csv(root / "metadata.csv", index=False)
    assert any("3 image files are not named in" in note for note in read(root).notes)


@pytest.mark.parametrize("name", ["label", "kind"])
@pytest.mark.parametrize(
    "label",
    [lambda i: 1 + i % 2, lambda i: i / 7, lambda i: "ab"[i % 2], lambda i: ("01", "02")[i % 2]],
    ids=["numbers", "regression", "words", "codes"],
)
def test_labels_of_new_files_are_found_in_their_table(
    tmp_path: Path, label: Callable[[int], object], name: str
) -> None:
    root = classes(tmp_path / "data", "images")
    files = sorted(str(path.relative_to(root)) for path in walk(root))
    table = pd.DataFrame({"file_name": files, name: [label(i) for i in range(len(files))]})
    table.to_csv(root / "metadata.csv", index=False)
    data = read(root, target=name)
    new = encode(root, data.profile, "images", data.targets)
    np.testing.assert_array_equal(new.labels[name], data.labels[name])
    table.rename(columns={name: "width"}).to_csv(root / "metadata.csv", index=False)
    assert encode(root, data.profile, "images", data.targets).labels == {}


def test_folders_of_another_meaning_are_no_labels_and_say_so(tmp_path: Path) -> None:
    data = read(classes(tmp_path / "data", "images"), target="kind")
    again = encode(tmp_path / "data", data.profile, "images", data.targets)
    np.testing.assert_array_equal(again.labels["kind"], data.labels["kind"])
    new = classes(tmp_path / "new", "images", ("a", "monday"))
    found = encode(new, data.profile, "images", data.targets)
    assert found.labels == {}
    assert "'monday' is no label of the training data: there are no scores" in found.notes


@pytest.mark.parametrize("where", ["there", "in one folder", "one is lost"])
def test_a_table_of_files_in_many_folders_is_searched_once(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"class{i % 40:02}/{i}.png" for i in range(400)]
    root = tmp_path / "pictures" if where == "in one folder" else tmp_path
    for name in names[1:] if where == "one is lost" else names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    looked: list[Path] = []
    is_file = Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda self: bool(looked.append(self)) or is_file(self))
    table = pd.DataFrame({"file_name": names})
    if where == "one is lost":
        with pytest.raises(InputError, match=r"names 1 files that do not exist: class00/0\.png"):
            IMAGES._files(table, tmp_path, "t.csv")
    else:
        assert IMAGES._files(table, tmp_path, "t.csv")[0] == [root / name for name in names]
    assert len(looked) < 3 * len(names)


@pytest.mark.parametrize("how", ["absolute", "upwards"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_table_that_leads_out_of_its_folder_is_noted(tmp_path: Path, kind: str, how: str) -> None:
    away = classes(tmp_path / "away", kind)
    names = [str(path) for path in sorted(walk(away))]
    if how == "upwards":
        names = [f"../away/{Path(name).relative_to(away)}" for name in names]
    (tmp_path / "data").mkdir()
    shutil.copy(
        names[0] if how == "absolute" else away / "a" / Path(names[0]).name, tmp_path / "data"
    )
    inside = Path(names[0]).name
    table = pd.DataFrame({"file_name": [*names, inside], "label": [*"ab" * PER_CLASS, "a"]})
    table.to_csv(tmp_path / "data" / "metadata.csv", index=False)
    data = read(tmp_path / "data")
    assert any("files outside of its folder" in n and names[0] in n for n in data.notes)
    new = encode(tmp_path / "data", data.profile, kind, data.targets)
    assert any("files outside of its folder" in note for note in new.notes)


def test_a_column_of_files_that_leads_out_of_its_folder_is_noted(tmp_path: Path) -> None:
    away = classes(tmp_path / "away", "images")
    (tmp_path / "data").mkdir()
    names = [f"../away/{path.relative_to(away)}" for path in sorted(walk(away))]
    table = pd.DataFrame(
        {"photo": names, "x": RNG.normal(size=len(names)), "y": [0, 1] * PER_CLASS}
    )
    table.to_csv(tmp_path / "data" / "table.csv", index=False)
    notes = read(tmp_path / "data" / "table.csv", target="y").notes
    assert any("files outside of its folder" in note and "'photo'" in note for note in notes)


# Endings ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["jfif", "JPE", "jp2", "tga", "avif", "ico", "pcx", "sgi"])
def test_images_of_whatever_ending_pillow_reads_are_samples(tmp_path: Path, ending: str) -> None:
    root = classes(tmp_path / "data", "images")
    for name in "ab":
        with Image.open(root / name / "0.jpg") as image:
            # An icon is saved in the sizes that it is asked for, else not below 16 pixels.
            image.save(root / name / f"other.{ending}", sizes=[image.size])
    assert size(read(root), "images") == 2 * PER_CLASS + 2


@pytest.mark.parametrize("form", ["MP3", "AIFF", "AU", "CAF", "W64", "VOC", "OGG", "RF64"])
def test_sounds_of_whatever_ending_libsndfile_reads_are_samples(tmp_path: Path, form: str) -> None:
    endings = {"AIFF": "aif", "OGG": "oga", "AU": "snd"}
    root = classes(tmp_path / "data", "audio")
    for name in "ab":
        wave = 0.3 * np.sin(np.arange(4000) / (3 + ord(name) % 2))
        path = root / name / f"other.{endings.get(form, form.lower())}"
        soundfile.write(path, wave, 16000, format=form)
    assert size(read(root), "audio") == 2 * PER_CLASS + 2


def test_an_ending_belongs_to_one_modality() -> None:
    images, sounds, clouds = (kind.suffixes for kind in (IMAGES, SOUNDS, CLOUDS))
    assert not images & sounds | images & clouds | sounds & clouds
    assert not (images | sounds) & {".h5", ".hdf5", ".eps", ".pdf", ".raw", ".mat", ".csv"}


def test_a_class_folder_of_files_that_nobody_reads_says_which(tmp_path: Path) -> None:
    root = classes(tmp_path / "data", "images")
    (root / "c").mkdir()
    (root / "c" / "0.heic").write_bytes(b"x")
    with pytest.raises(InputError, match=r"class folder 'c' \(but .heic: 1\); .* to .png"):
        read(root)


@pytest.mark.parametrize(
    ("ending", "modality", "words"),
    [
        ("heic", "images", "convert it to .png"),
        ("m4a", "audio", "convert it to .wav"),
        ("las", "pointclouds", "save it as .ply"),
        ("pkl", "tabular", "save it as .csv"),
    ],
)
@pytest.mark.parametrize("said", [True, False], ids=["said", "inferred"])
def test_class_folders_that_nobody_reads_say_what_to_convert_to(
    tmp_path: Path, ending: str, modality: str, words: str, said: bool
) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(6):
            (tmp_path / name / f"{i}.{ending}").write_bytes(b"x")
    with pytest.raises((InputError, UsageError), match=words) as caught:
        read(tmp_path, modality=modality if said and modality != "tabular" else None)
    assert "--modality" not in str(caught.value)


def pictures(root: Path) -> Path:
    for name in ("p", "q"):
        (root / name).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(np.full((8, 8), 9 * i, np.uint8)).save(root / name / f"{i}.png")
    return root


def test_a_link_to_itself_is_no_file(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "d")
    (folder / "p" / "x.png").symlink_to(folder / "p" / "x.png")
    assert len(read(folder).labels["label"]) == 20


def test_a_pipe_called_metadata_is_no_table(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "d")
    os.mkfifo(folder / "metadata.csv")
    assert len(read(folder).labels["label"]) == 20


def test_a_class_folder_without_a_name_in_utf8_is_named(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "d")
    os.rename(os.fsencode(folder / "q"), os.fsencode(folder) + b"/\xff\xfe")
    with pytest.raises(InputError, match=r"class folder b'\\xff\\xfe' in .* rename it"):
        read(folder)
