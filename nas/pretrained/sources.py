"""Published weights: where they are, what they are, and whether they can be used safely.

A checkpoint is a folder in the format of transformers or sentence-transformers (config.json,
tokenizer.json, model.safetensors), a file of weights, or the id of one on a hub. Only JSON and
tensors are read: no code of a checkpoint is run, and no pickle but through
``torch.load(weights_only=True)``. Torch is imported for a file of pickled tensors alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from nas.files import first_line
from nas.pretrained import audio, images, tokenizer
from nas.task import Checkpoint, DataProfile, InputError, Modality

# What is fetched of a hub: weights as plain tensors, and JSON.
FETCHED = ("*.json", "*.safetensors", "vocab.txt", "README.md")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_OF_FILES = (".pth", ".pt", ".bin", ".safetensors")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def find(source: str) -> Path:
    """The folder or file of a checkpoint.

    Args:
        source: A path, or the id of a checkpoint on the Hugging Face hub ("ORGANISATION/NAME"),
            which is downloaded where it is not in the hub's cache. What has the ending of a file of
            weights, or lies in a folder that is here, is a path.

    Raises:
        InputError: There is no such path, or the hub does not give it (``Unreachable``).
    """
    path = Path(source).expanduser()
    if path.exists():
        return path.resolve()
    is_path = path.suffix in _OF_FILES or path.parent.is_dir() or source.startswith(".")
    if is_path or not _HUB_ID.fullmatch(source):
        raise InputError(f"no pretrained network at {source}; give a folder, a file or a hub id")
    return _fetched(source)


def absolute(sources: Sequence[str] | None) -> tuple[str, ...] | None:
    """Sources as they are found from any folder; ids of a hub as they are."""
    if sources is None:
        return None
    paths = (Path(source).expanduser() for source in sources)
    return tuple(str(p.resolve()) if p.exists() else s for p, s in zip(paths, sources, strict=True))


class Unreachable(InputError):  # noqa: N818  # an outcome: a search continues with others
    """A hub does not give a checkpoint: it is absent, gated, or there is no network."""


def _fetched(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, allow_patterns=list(FETCHED)))
    except Exception as error:  # of many libraries: names, permissions, networks
        reason = first_line(error)
        raise Unreachable(
            f"pretrained network {name}: neither a path here nor to be had from the hub"
            f" ({type(error).__name__}: {reason:.120}); download it and give its folder"
        ) from None


def describe(source: str) -> Checkpoint:
    """What a checkpoint is: its architecture and sizes, its file of weights and their hash, and
    what it says of its licence and its training data.

    Raises:
        InputError: It is damaged, not safe, or of an architecture that is not known; one line.

    Example:
        >>> describe("all-MiniLM-L6-v2").architecture  # doctest: +SKIP
        'bert'
    """
    path = find(source)
    found = _of_file(path) if path.is_file() else _of_folder(path)
    if found.modality == "images" and "mean" not in found.sizes:
        raise InputError(
            f"{path}: what is done to an image before is not in the file; give the folder with its"
            " config.json"
        )
    # A hub's cache calls the folder by a hash.
    cached = re.search(r"/models--([^/]+)/snapshots/[^/]+(/|$)", path.as_posix())
    name = cached[1].rpartition("--")[2] if cached and path.is_dir() else found.name
    return replace(found, name=name, sha256=sha256(Path(found.path)))


def usable(
    sources: Sequence[str], modality: Modality, profile: DataProfile, data: Any = None
) -> tuple[tuple[Checkpoint, ...], tuple[str, ...]]:
    """The checkpoints that a search can start from, and sentences on those that are left out, of
    another modality or that a hub does not give, and on those that may have seen the data.

    Args:
        sources: Folders, files or ids of a hub.
        modality: Of the data.
        profile: Of the data, with its members.
        data: Where they come from; a path's name may be that of a known data set.

    Raises:
        InputError: A checkpoint that is there is damaged, not safe, or not known; or a hub gives
            none of them.
    """
    found: dict[str, Checkpoint] = {}
    notes, absent = list[str](), list[Unreachable]()
    modalities = {modality, *(member.modality for member in profile.members.values())}
    for source in sources:
        try:
            checkpoint = describe(source)
        except Unreachable as error:
            notes.append(f"{error}; the search goes on without it")
            absent.append(error)
            continue
        if checkpoint.modality not in modalities:
            notes.append(
                f"pretrained network {checkpoint.name} reads {checkpoint.modality}, not"
                f" {modality}: it is not used"
            )
            continue
        name, i = checkpoint.name, 2
        while name in found:
            name, i = f"{checkpoint.name}-{i}", i + 1
        found[name] = replace(checkpoint, name=name)
        if (benchmark := _seen(checkpoint, data)) is not None:
            notes.append(
                f"pretrained network {name} names {benchmark}, which these data may be: if it was"
                " trained on them, a score on the test part is too good"
            )
    if absent and len(absent) == len(sources):
        raise absent[0]
    return tuple(found.values()), tuple(notes)


# Words in paths and in names of networks that name no data set.
_GENERIC = {"text", "texts", "image", "images", "photos", "audio", "sounds", "data", "train"}
_GENERIC |= {"test", "base", "large", "small", "tiny", "mini", "english", "cased", "uncased"}


def _seen(checkpoint: Checkpoint, data: Any) -> str | None:
    """The data set that a checkpoint's name or card names as the data are called."""
    if not isinstance(data, (str, Path)):
        return None

    def plain(text: str) -> str:
        return re.sub(r"[^a-z0-9]", "", text.lower())

    place = Path(data)
    called = {plain(place.name.split(".")[0]), plain(place.absolute().parent.name)} - _GENERIC
    pieces = re.split(r"[-_./ ]", checkpoint.name)
    pairs = ("".join(two) for two in pairwise(pieces))  # sst-2
    trained = re.split(r"[,/]", checkpoint.trained_on)
    named = {plain(text) for text in (*pieces, *pairs, *trained)}
    return min((name for name in called & named if len(name) > 3), default=None)


@cache
def _hash(path: Path, size: int, changed_ns: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()


def sha256(path: Path) -> str:
    """The hash of a file, computed once while its size and time stay."""
    about = path.stat()
    return _hash(path, about.st_size, about.st_mtime_ns)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint. Raises InputError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path.parent} is no pretrained network: {path.name} is missing; save it by"
            " save_pretrained of transformers"
        ) from None
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__})") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no JSON object")
    return found


# -- folders of transformers and sentence-transformers ---------------------------------------------


def _of_folder(folder: Path) -> Checkpoint:
    modules, first = _modules(folder), network_folder(folder)
    config = read_json(first / "config.json")
    if "auto_map" in config:
        raise InputError(
            f"{first / 'config.json'} asks for code of its own (auto_map, trust_remote_code), and"
            " none is run; choose a network of a known architecture"
        )
    if "model_type" not in config and "architecture" in config:
        return _of_timm(folder, config)
    kind = str(config.get("model_type", ""))
    if kind not in _TEXT and kind not in audio.KNOWN:
        raise InputError(
            f"{first / 'config.json'}: the architecture {kind!r} is not known here; known are"
            f" {', '.join((*_TEXT, *audio.KNOWN))}"
        )
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise InputError(f"{first / 'config.json'}: positions that are not absolute are not known")
    hears = kind in audio.KNOWN
    front = read_json(first / "preprocessor_config.json") if hears else {}
    try:
        sizes = audio.sizes(kind, config, front) if hears else _TEXT[kind](config)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{first / 'config.json'}: {error} is missing or wrong") from None
    if not hears:
        sizes |= _of_reader(folder, first, modules)
        # Some have rows for tokens that there are not, to a round number.
        sizes["vocabulary"] = min(int(sizes["vocabulary"]), tokenizer.size(first))
    weights = _weights(first)
    licence, trained_on = _card(folder)
    return Checkpoint(
        name=folder.name,
        path=str(weights),
        modality="audio" if hears else "text",
        architecture=kind,
        sizes=sizes,
        licence=licence,
        trained_on=trained_on,
    )


def _of_timm(folder: Path, config: Mapping[str, Any]) -> Checkpoint:
    """A folder as timm saves it: config.json and one file of weights."""
    name, found = str(config["architecture"]), _of_file(_weights(folder))
    if not images.is_known(name, found.architecture):
        raise InputError(
            f"{folder / 'config.json'}: the architecture {name!r} is not known here; known are"
            " timm's tf_efficientnet_lite0, resnet18 to resnet152, and vit_tiny to vit_large"
        )
    try:
        found = images.of_timm(found, config)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / 'config.json'}: {error} is missing or wrong") from None
    licence, trained_on = _card(folder)
    return replace(
        found, name=folder.name, licence=licence, trained_on=trained_on or found.trained_on
    )


def _of_reader(
    folder: Path, first: Path, modules: list[dict[str, Any]]
) -> dict[str, int | float | str]:
    """What an encoder of texts has beside its sizes: a tokenizer, a pooling and a length."""
    if not (first / "tokenizer.json").is_file():
        raise InputError(
            f"{first} has no tokenizer.json; save its fast tokenizer (save_pretrained)"
        )
    limit = _limit(first)
    pooling: dict[str, int | float | str] = {"pooling": _pooling(folder, modules)}
    return pooling | ({"length": limit} if limit else {})


def network_folder(folder: Path) -> Path:
    """Where the network and the tokenizer of a checkpoint's folder lie: sentence-transformers may
    have them in a part of it."""
    modules = _modules(folder)
    return _inside(folder, str(modules[0].get("path", ""))) if modules else folder


def _modules(folder: Path) -> list[dict[str, Any]]:
    """The parts of a sentence-transformers folder; none of a folder of transformers."""
    file = folder / "modules.json"
    if not file.is_file():
        return []
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return [dict(part) for part in found]
    except (ValueError, TypeError):
        raise InputError(f"{file} is damaged: it holds no list of modules") from None


def _inside(folder: Path, name: str) -> Path:
    """A part of a checkpoint by its relative path, which must stay inside."""
    place = (folder / name).resolve()
    if not place.is_relative_to(folder.resolve()):
        raise InputError(f"{folder}: the path {name!r} leads outside of the checkpoint")
    return place


def _weights(folder: Path) -> Path:
    for name in _WEIGHTS:
        if (file := folder / name).is_file():
            if name.endswith(".safetensors"):
                check_safetensors(file)
            return file
    if (folder / "model.safetensors.index.json").is_file():
        raise InputError(f"{folder}: weights in several files are not read; merge them into one")
    raise InputError(f"{folder} has no weights ({' or '.join(_WEIGHTS)})")


def check_safetensors(file: Path) -> None:
    """Raise InputError where a file of tensors is not whole."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy"):
            pass
    except (SafetensorError, OSError, ValueError) as error:
        reason = first_line(error)
        raise InputError(
            f"{file} is no whole safetensors file ({reason:.100}); download it again"
        ) from None


def _pooling(folder: Path, modules: list[dict[str, Any]]) -> str:
    """How a sentence-transformers network makes one vector of a text; "avg" where nothing is
    said."""
    names = {"pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max"}
    for part in modules:
        if str(part.get("type", "")).endswith(".Pooling"):
            about = read_json(_inside(folder, str(part.get("path", ""))) / "config.json")
            return next((name for key, name in names.items() if about.get(key)), "avg")
    return "avg"


def _limit(folder: Path) -> int:
    """The most tokens that a network was meant for; 0 where nothing is said."""
    file = folder / "sentence_bert_config.json"
    return int(read_json(file).get("max_seq_length") or 0) if file.is_file() else 0


def _card(folder: Path) -> tuple[str, str]:
    """What a model card says of the licence and of the training data; "" each where nothing."""
    import yaml

    file = folder / "README.md"
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    found = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    try:
        head = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError:
        head = {}
    if not isinstance(head, dict):
        return "", ""
    trained = head.get("datasets") or []
    names = [trained] if isinstance(trained, str) else list(trained)
    return str(head.get("license") or ""), ", ".join(map(str, names))


def _bert(config: Mapping[str, Any]) -> dict[str, int | float | str]:
    return {
        "vocabulary": int(config["vocab_size"]),
        "positions": int(config["max_position_embeddings"]),
        "dim": int(config["hidden_size"]),
        "heads": int(config["num_attention_heads"]),
        "hidden": int(config["intermediate_size"]),
        "blocks": int(config["num_hidden_layers"]),
        "activation": _activation(config.get("hidden_act", "gelu")),
        "eps": float(config.get("layer_norm_eps", 1e-12)),
        "dropout": float(config.get("hidden_dropout_prob", 0.1)),
    }


def _roberta(config: Mapping[str, Any]) -> dict[str, int | float | str]:
    sizes = _bert(config)
    # Positions are counted from the token of padding on.
    first = int(config.get("pad_token_id", 1)) + 1
    return sizes | {"positions": int(config["max_position_embeddings"]) - first, "first": first}


def _distilbert(config: Mapping[str, Any]) -> dict[str, int | float | str]:
    if config.get("sinusoidal_pos_embds"):
        raise ValueError("sinusoidal_pos_embds")
    return {
        "vocabulary": int(config["vocab_size"]),
        "positions": int(config["max_position_embeddings"]),
        "dim": int(config["dim"]),
        "heads": int(config["n_heads"]),
        "hidden": int(config["hidden_dim"]),
        "blocks": int(config["n_layers"]),
        "activation": _activation(config.get("activation", "gelu")),
        "eps": 1e-12,
        "dropout": float(config.get("dropout", 0.1)),
    }


def _activation(name: Any) -> str:
    if name not in ("gelu", "relu"):
        raise ValueError(f"activation {name!r}")
    return str(name)


_TEXT: dict[str, Callable[[Mapping[str, Any]], dict[str, int | float | str]]] = {
    "bert": _bert,
    "distilbert": _distilbert,
    "roberta": _roberta,
    "xlm-roberta": _roberta,
}


# -- files of weights ------------------------------------------------------------------------------


def _of_file(path: Path) -> Checkpoint:
    from nas.pretrained.weights import read_tensors

    if path.suffix == ".safetensors":
        check_safetensors(path)
    shapes = {name: tuple(value.shape) for name, value in read_tensors(path).items()}
    found = images.recognise(shapes)
    if found is None:
        raise InputError(
            f"{path}: its weights are of no architecture that is known here"
            f" ({', '.join(images.KNOWN)}); give the folder with its config.json"
        )
    return replace(found, name=path.stem, path=str(path))
