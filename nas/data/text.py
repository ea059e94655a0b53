"""Texts: columns of tables and lists of strings to tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from nas import rules
from nas.data import tabular
from nas.data.column_types import IGNORE
from nas.data.columns import ColumnValues
from nas.data.dataset import shape_profile
from nas.data.ragged import Ragged, percentiles
from nas.data.samples import Arrays, Samples
from nas.task import Column, DataProfile, InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PADDING, UNKNOWN, SEPARATOR = SPECIAL = ("[PAD]", "[UNK]", "[SEP]")  # the first three ids
# A word with its apostrophes, the end of a word that was cut off at one ("'s", "'t"), or a sign.
WORD = r"\w+(?:['’]\w+)*|['’](?:s|t|d|m|ll|re|ve)\b|[^\w\s]"
AT_ONCE = 10_000  # texts that are tokenised together
LOWER_CASE_WORDS = 1_000_000  # words in all texts, below which upper case only dilutes counts


def recognise(source: Any) -> str:
    """Lists of texts; tables are judged by their columns, see ``multimodal.kind_of_table``."""
    texts = source.x if isinstance(source, Arrays) else None
    if isinstance(texts, np.ndarray) and texts.ndim == 1 and texts.dtype.kind in "OUT":
        texts = texts.tolist()
    if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
        return "a list of texts"
    return ""


def load(
    source: Path | pd.DataFrame | Arrays, target: list[str] | None, columns: Mapping[str, str]
) -> Samples:
    """Rows of a table or a list, with their target columns; ``inputs`` are the columns of text,
    those that ``columns`` calls so or that look like it.

    Words such as "null" are words here. Raises InputError where no column holds texts, and
    for a sample without any.
    """
    samples = tabular.load(_framed(source), target, columns, missing=())
    types = {name: kind for name, kind in columns.items() if kind != IGNORE}
    names = _text_columns(samples.inputs, types)
    frame = samples.inputs[names].map(_text)
    empty = np.flatnonzero((frame == "").all(axis=1))
    if len(empty):
        raise InputError(
            f"the text ({', '.join(names)}) is empty in {len(empty)} of {len(frame)} samples,"
            f" first in {samples.place(int(empty[0]))}; fill or drop these"
        )
    return replace(samples, inputs=frame)


def load_inputs(source: Path | pd.DataFrame | Arrays, as_written: Collection[str] = ()) -> Samples:
    """Rows to predict; a .txt file holds one text a line."""
    if isinstance(source, Path) and source.suffix.lower() == ".txt":
        try:
            with source.open(encoding="utf-8-sig") as file:
                lines = [line.rstrip("\n") for line in file]
        except UnicodeDecodeError as error:
            raise InputError(
                f"{source} is not UTF-8 text (byte {error.start}); save it as UTF-8"
            ) from None
        if not lines:
            raise InputError(f"{source} is empty; expected one text a line")
        frame = pd.DataFrame({"text": lines})
        return Samples(frame, pd.DataFrame(index=frame.index), files=((source.name, len(frame)),))
    return tabular.load_inputs(_framed(source), as_written, missing=())


def code(
    samples: Samples, train: np.ndarray, *, tokenizers: Sequence[Path] = ()
) -> tuple[dict[str, Ragged], DataProfile, list[str]]:
    """Tokens, a profile with the tokenizer learnt from the training rows, and notes.

    ``samples.inputs`` holds one column of text or several, which are joined by a separator.
    ``tokenizers`` are folders of pretrained networks, the first of which says what a token is.
    """
    columns = _columns(samples.inputs)
    texts = _joined(columns)
    learnt = [texts[i] for i in train]
    tokenizer, how = _of_checkpoint(tokenizers[0], learnt) if tokenizers else _learn(learnt)
    lengths = np.array([len(ids) for ids in _ids(tokenizer, learnt)])
    most = rules.text_length(percentiles(lengths))
    notes = [how]
    known = {*columns, "split"} if samples.given is not None else {*columns}
    unused = [str(name) for name in samples.columns if name not in known]
    if unused:
        notes.append(
            f"columns {', '.join(map(repr, unused[:5]))}{' …' if len(unused) > 5 else ''} hold no"
            " texts and are not used; modality multimodal reads them too"
        )
    if (longer := int((lengths > most).sum())) > 0:
        notes.append(f"{longer} training texts are cut after {most} tokens (the longest: "
                     f"{lengths.max()})")  # fmt: skip
    tokenizer.enable_truncation(max_length=most)
    inputs = {"tokens": _tokens(tokenizer, texts)}
    profile = replace(
        shape_profile(inputs, train),
        columns=tuple(Column(str(name), "text") for name in columns),
        # A pretrained network's other words are in no training text: they are unknown ones to
        # networks that learn from these alone.
        vocabulary=_seen(inputs["tokens"], train) if tokenizers else tokenizer.get_vocab_size(),
        tokenizer=tokenizer.to_str(),
    )
    return inputs, profile, notes


def encode(inputs: pd.DataFrame | pd.Series, profile: DataProfile) -> dict[str, Ragged]:
    """New texts as tokens; where training had one column, a single column may have any name.

    An empty text is one unknown word. Raises InputError for a column that is absent.
    """
    from tokenizers import Tokenizer

    found = _columns(inputs)
    names = [column.name for column in profile.columns]
    if len(names) == 1 and names[0] not in found and len(found) == 1:
        found = {names[0]: next(iter(found.values()))}
    absent = [name for name in names if name not in found]
    if absent:
        raise InputError(
            f"the data lacks the columns {', '.join(map(repr, absent))} of the training data;"
            f" it has {', '.join(map(repr, list(found)[:10])) or 'none'} instead"
        )
    texts = _joined({name: found[name] for name in names})
    return {"tokens": _tokens(Tokenizer.from_str(profile.tokenizer), texts)}


# Columns ---------------------------------------------------------------------------------


def _framed(source: Any) -> Any:
    """A list of texts as a table with the column "text"; all else as it is."""
    if not recognise(source):
        return source
    frame = pd.DataFrame({"text": pd.Series(list(source.x), dtype="str")})
    return Arrays(frame, source.y, source.given, source.name)


def _text(value: Any) -> str:
    """A cell as text, stripped; "" where there is none."""
    return value.strip() if isinstance(value, str) else "" if pd.isna(value) else str(value)


def _text_columns(frame: pd.DataFrame, types: Mapping[str, str]) -> list[str]:
    """The columns that hold texts, or the only one of strings."""
    from nas.data.multimodal import infer, informative

    names = [str(name) for name, kind in infer(frame, types).items() if kind == "text"]
    strings = [
        str(name)
        for name in frame.columns
        if name not in types
        and not ColumnValues(frame[name]).is_numeric
        # Of a single column nothing else can be the text.
        and (frame.shape[1] == 1 or informative(str(name), frame[name]))
    ]
    if not names and len(strings) != 1:
        found = ", ".join(map(repr, strings or map(str, frame.columns)))
        raise InputError(
            f"none of the columns {found} holds sentences, so the text column is not clear; keep"
            " only that one and the target"
        )
    return names or strings


def _columns(inputs: pd.DataFrame | pd.Series) -> dict[str, pd.Series]:
    if isinstance(inputs, pd.Series):
        return {str(inputs.name or "text"): inputs}
    return {str(name): inputs[name] for name in inputs}


def _joined(columns: dict[str, pd.Series]) -> list[str]:
    """One text for each row; an empty one becomes a word that is in no vocabulary."""
    cells = [[_text(value) for value in column] for column in columns.values()]
    between = f" {SEPARATOR} "
    return [between.join(row) if any(row) else UNKNOWN for row in zip(*cells, strict=True)]


# Tokens ----------------------------------------------------------------------------------


def _learn(texts: list[str]) -> tuple[Tokenizer, str]:
    """A tokenizer for these texts: of words, or of pieces of words where too many words are rare.

    The fraction of words that occur once estimates the fraction of new ones in other texts (Good
    1953, "The Population Frequencies of Species").
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    unify: list[Any] = [normalizers.NFKC()]
    running = sum(len(text.split()) for text in texts)
    if running < LOWER_CASE_WORDS:
        unify.append(normalizers.Lowercase())
    normalizer = normalizers.Sequence(unify)
    splitter = pre_tokenizers.Split(Regex(WORD), "removed", invert=True)
    counts = _count(normalizer, splitter, texts)
    if not counts:
        raise InputError("the texts hold no words")
    total, once = sum(counts.values()), sum(n == 1 for n in counts.values())
    if once / total <= rules.NEW_WORDS:
        ordered = sorted(counts, key=lambda word: (-counts[word], word))
        kept = [word for word in ordered if counts[word] >= rules.WORD_COUNT]
        words = [*SPECIAL, *kept[: rules.MOST_WORDS]]
        model = models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN)
        tokenizer = Tokenizer(model)
        how = f"a vocabulary of {len(words)} words"
    else:
        tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    if isinstance(tokenizer.model, models.BPE):
        # A piece that begins a word has a mark before it.
        mark = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([splitter, mark])
        signs: Counter[str] = Counter()
        for word, count in counts.items():
            signs.update(dict.fromkeys(word, count))
        # Chosen here: the trainer breaks ties at random, and a script may have thousands of signs.
        alphabet = sorted(signs, key=lambda sign: (-signs[sign], sign))[: rules.MOST_PIECES // 2]
        trainer = trainers.BpeTrainer(
            vocab_size=rules.MOST_PIECES,
            min_frequency=rules.WORD_COUNT,
            initial_alphabet=[mark.replacement, *alphabet],
            limit_alphabet=len(alphabet) + 1,
            special_tokens=list(SPECIAL),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        how = (
            f"{100 * once / total:.0f} % of the words are seen once: {tokenizer.get_vocab_size()}"
            " pieces of words (BPE)"
        )
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer, f"{how}{', in lower case' * (len(unify) > 1)}"


def _count(normalizer: Any, splitter: Any, texts: Iterable[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for text in texts:
        plain = normalizer.normalize_str(text.replace(SEPARATOR, " "))
        counts.update(word for word, _ in splitter.pre_tokenize_str(plain))
    return counts


def _of_checkpoint(folder: Path, texts: list[str]) -> tuple[Tokenizer, str]:
    from nas.pretrained.tokenizer import of_checkpoint

    return of_checkpoint(folder, texts), f"tokens as {folder.name} reads them"


def _seen(tokens: Ragged, train: np.ndarray) -> int:
    """The ids up to the last one in the training rows; the most frequent come first."""
    return max(len(SPECIAL), int(tokens.take(train).values.max()) + 1)


def _tokens(tokenizer: Tokenizer, texts: list[str]) -> Ragged:
    unknown = [1]  # of a text of spaces, say
    return Ragged.of([np.array(ids or unknown, np.int32) for ids in _ids(tokenizer, texts)])


def _ids(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[list[int]]:
    """The tokens of each text, ``AT_ONCE`` texts at a time: beside its number an encoding holds
    some hundred bytes of each token."""
    for start in range(0, len(texts), AT_ONCE):
        for encoding in tokenizer.encode_batch(list(texts[start : start + AT_ONCE])):
            yield encoding.ids
