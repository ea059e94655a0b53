"""The tokenizer of a checkpoint, with its words in the order of their frequency in the data.

All families of a search read the same tokens. Networks from random weights learn vectors for the
most frequent ones, so these come first; a pretrained network takes the rows of its embedding in the
same order (``rows``).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.task import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Names of the first three ids, in this order, as different libraries have them.
_SPECIAL = (("[PAD]", "<pad>"), ("[UNK]", "<unk>"), ("[SEP]", "</s>"))


def folders(sources: Sequence[str]) -> list[Path]:
    """The folders of pretrained networks that have a tokenizer; those that cannot be had or used
    are left out (``nas.pretrained.sources.usable`` says why)."""
    from nas.pretrained.sources import Unreachable, find, network_folder

    found = []
    for source in sources:
        try:
            path = find(source)
        except Unreachable:
            continue
        if path.is_dir() and (network_folder(path) / "tokenizer.json").is_file():
            found.append(network_folder(path))
    return found


def of_checkpoint(folder: Path, texts: Sequence[str]) -> Tokenizer:
    """The tokenizer in ``folder``/tokenizer.json: padding has id 0, unknown words 1, the end of a
    text 2; then the words of ``texts`` by their number, and all others as they were.

    Raises:
        InputError: There is none, or of a kind that is not known.
    """
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        about["truncation"] = about["padding"] = None
        plain = Tokenizer.from_str(json.dumps(about))
        counts: Counter[str] = Counter()
        for found in plain.encode_batch(list(texts)):
            counts.update(found.tokens)
        ordered = _ordered(plain.get_vocab(), counts)
        return Tokenizer.from_str(json.dumps(_renumbered(about, ordered)))
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{folder} has no tokenizer.json") from None
    except Exception as error:  # tokenizers raises plain Exceptions
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{file} is no tokenizer that is known here ({reason:.100})") from None


def size(folder: Path) -> int:
    """The tokens that ``folder``/tokenizer.json knows. Raises InputError where it is damaged."""
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    try:
        found: int = Tokenizer.from_file(str(file)).get_vocab_size()
    except Exception as error:  # tokenizers raises plain Exceptions
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{file} is no tokenizer that is known here ({reason:.100})") from None
    return found


def rows(folder: Path, tokenizer: str) -> list[int]:
    """For each id of ``tokenizer`` (its JSON) the id of the same token in the checkpoint.

    Raises:
        InputError: The tokenizer is not that of the checkpoint.
    """
    from tokenizers import Tokenizer

    about = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    known: dict[str, int] = Tokenizer.from_str(json.dumps(about)).get_vocab()
    own: dict[str, int] = Tokenizer.from_str(tokenizer).get_vocab()
    if known.keys() != own.keys():
        raise InputError(
            f"{folder} has another tokenizer than the data was read with; search with networks of"
            " different tokenizers one after the other"
        )
    return [known[token] for token in sorted(own, key=own.__getitem__)]


def _ordered(vocabulary: dict[str, int], counts: Counter[str]) -> list[str]:
    first = []
    for names in _SPECIAL:
        name = next((n for n in names if n in vocabulary), None)
        if name is None:
            raise InputError(f"the tokenizer has no token {' or '.join(names)}")
        first.append(name)
    rest = sorted(vocabulary.keys() - set(first), key=lambda t: (-counts[t], vocabulary[t]))
    return [*first, *rest]


def _renumbered(about: dict[str, Any], ordered: Sequence[str]) -> dict[str, Any]:
    """The JSON of a tokenizer with the ids that follow from ``ordered``."""
    new = {token: i for i, token in enumerate(ordered)}
    model = about["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {token: new[token] for token in model["vocab"]}
    else:  # of a unigram model the place in the list is the id
        unknown = model["vocab"][model["unk_id"]][0]
        scores = dict(model["vocab"])
        lowest = min(scores.values())
        listed = [token for token in ordered if token in scores]
        if listed != list(ordered[: len(listed)]):
            raise InputError("a unigram tokenizer with tokens beside its vocabulary is not known")
        model["vocab"] = [[token, scores.get(token, lowest)] for token in listed]
        model["unk_id"] = listed.index(unknown)
    for token in about.get("added_tokens") or ():
        token["id"] = new[token["content"]]
    about["added_tokens"] = sorted(about.get("added_tokens") or (), key=lambda t: t["id"])
    _renumber_ends(about.get("post_processor"), new)
    return about


def _renumber_ends(part: Any, new: dict[str, int]) -> None:
    """The ids of the tokens that a text begins and ends with."""
    if not part:
        return
    kind = part["type"]
    if kind == "Sequence":
        for each in part["processors"]:
            _renumber_ends(each, new)
    elif kind == "TemplateProcessing":
        for special in part["special_tokens"].values():
            special["ids"] = [new[token] for token in special["tokens"]]
    elif kind in ("BertProcessing", "RobertaProcessing"):
        for end in ("sep", "cls"):
            part[end][1] = new[part[end][0]]
    elif kind != "ByteLevel":
        raise InputError(f"the post-processor {kind} is not known")
