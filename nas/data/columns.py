"""The values of one column: numbers, dates, amounts of money, or categories."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from nas.data.csv_files import MISSING

# How the numbers of a column are written: 1234.5; 2024-01-31 (days since 1970-01-01, UTC);
# 1,118.27 and 1.118,27, both also with a currency or a per cent sign.
FORMS = ("plain", "date", "grouped", "comma")
WRONG = 0.05  # fraction of the distinct values that need not be numbers in a column of numbers
SAMPLED = 2_000  # distinct texts that decide how numbers are written
MOST_CODES = 20  # distinct Python integers of an object column, which are categories

_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ].*)?$")
_UNIT = r"(?P<{}>[$€£¥₹₩₽₺฿%‰]|USD|EUR|GBP|CHF|JPY)?"
_AMOUNT = (
    rf"(?P<open>\()?(?P<sign>[-+−])?{_UNIT.format('before')}\s*(?P<inner>[-+−])?"
    r"(?P<whole>{whole})(?P<fraction>{point}\d+(?:[eE][+-]?\d+)?)?\s*"
    + _UNIT.format("after")
    + r"(?P<close>\))?$"
)
_SPACE = r" '’\u00a0\u202f"  # thousands are also separated by these


def _amount(group: str, point: str) -> re.Pattern[str]:
    whole = rf"[1-9]\d{{0,2}}(?:[{group}{_SPACE}]\d{{3}})+|0|[1-9]\d*"
    return re.compile(_AMOUNT.replace("{whole}", whole).replace("{point}", point))


AMOUNTS = {"grouped": _amount(",", r"\."), "comma": _amount(r"\.", ",")}


@dataclass(frozen=True)
class Numbers:
    """A column read as numbers.

    ``values`` float64 (n,) are NaN where a value is missing or no number; ``wrong`` are the
    distinct texts of the latter. ``form`` is one of ``FORMS``.
    """

    values: np.ndarray
    wrong: tuple[str, ...] = ()
    form: str = "plain"


@dataclass(frozen=True)
class ColumnValues:
    """One column of a table, read as categories or as numbers when they are asked for."""

    column: pd.Series

    @cached_property
    def distinct(self) -> tuple[np.ndarray, list[str]]:
        """Codes (n,) into the distinct values as stripped text; -1 where one is missing."""
        return distinct(self.column)

    @cached_property
    def numbers(self) -> Numbers:
        return numbers(self.column, found=self)

    @cached_property
    def is_numeric(self) -> bool:
        """Whether the values are measured rather than names: 95 % of the distinct ones are
        numbers, or all but one, which is in few rows.

        A column of category dtype holds names, and so does one of Python integers in an object
        column (someone took them out of the integers on purpose) with few distinct values.
        """
        column = self.column
        if isinstance(column.dtype, pd.CategoricalDtype):
            return False
        if column.dtype == object:
            kinds = {type(value) for value in column.dropna()}
            if kinds == {int} and column.nunique() <= MOST_CODES:
                return False
        wrong = self.numbers.wrong
        if not wrong:
            return True
        codes, texts = self.distinct
        if len(wrong) <= WRONG * len(texts):
            return True
        rows = int((codes == texts.index(wrong[0])).sum())
        return len(wrong) == 1 and len(texts) > 3 and rows <= WRONG * int((codes >= 0).sum())


def distinct(column: pd.Series, missing: Sequence[str] = MISSING) -> tuple[np.ndarray, list[str]]:
    """Codes (n,) into the distinct values as stripped text; -1 where the value is missing.

    Whole floats are read as integers, so that a category 1 stays "1" in a column with missing
    values, which NumPy can only store as floats. Bytes are decoded. The texts ``missing`` mark a
    missing value, but in a column of category dtype they are names like any other.
    """
    named = isinstance(column.dtype, pd.CategoricalDtype)
    try:
        codes, values = pd.factorize(column)
    except TypeError:  # lists or dicts, which cannot be compared
        codes, values = pd.factorize(column.map(str, na_action="ignore"))
    texts: dict[str, int] = {}
    remap = np.full(len(values) + 1, -1, np.int32)  # the last entry serves code -1
    for i, value in enumerate(values):
        text = as_text(value)
        if named or text not in missing:
            remap[i] = texts.setdefault(text, len(texts))
    return remap[codes], list(texts)


def as_text(value: object) -> str:
    """A value as the name of a category: 1.0 is "1", and bytes are decoded."""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    return str(value).strip()


def canonical(text: str) -> str:
    """A text as the name of a category: the number "1.0" as "1", and "True", as Python has it, as
    "true"; other texts as they are."""
    try:
        return as_text(float(text))
    except ValueError:
        return text.lower() if text in ("True", "False") else text


# Numbers ---------------------------------------------------------------------------------


def numbers(column: pd.Series, form: str = "", found: ColumnValues | None = None) -> Numbers:
    """A column as numbers; dates count as days since 1970-01-01 (UTC).

    ``form`` is that of the training data; by default it is the one that fits most values.
    ``found`` is the same column, if its distinct values are known already.
    """
    if pd.api.types.is_datetime64_any_dtype(column):
        return Numbers(_days(pd.to_datetime(column, utc=True)), form="date")
    if pd.api.types.is_timedelta64_dtype(column):
        seconds = column.dt.total_seconds().to_numpy(np.float64)
        return Numbers(seconds / 86_400, form="date")
    if pd.api.types.is_numeric_dtype(column):
        return Numbers(column.to_numpy(np.float64, na_value=np.nan))
    codes, texts = distinct(column) if found is None else found.distinct
    form = form or _form(texts)
    if not form:  # hardly any is a number
        return Numbers(np.full(len(codes), np.nan), tuple(texts))
    values = _parse(texts, form)
    wrong = tuple(text for text, bad in zip(texts, np.isnan(values), strict=True) if bad)
    return Numbers(np.append(values, np.nan)[codes], wrong, form)


def _form(texts: Sequence[str]) -> str:
    """The form in which most of the texts are numbers, the plain one if in doubt; "" if less than
    half of them are in any."""
    if len(texts) > SAMPLED:
        rows = np.random.default_rng(0).choice(len(texts), SAMPLED, replace=False)
        texts = [texts[i] for i in rows]
    fits = {form: int((~np.isnan(_parse(texts, form))).sum()) for form in FORMS}
    fits |= {form: 0 for form in AMOUNTS if not _one_unit(texts, form)}
    best = max(FORMS, key=lambda form: fits[form])
    return best if not texts or fits[best] >= len(texts) / 2 else ""


def with_decimal_commas(column: pd.Series) -> pd.Series:
    """A column of texts in which "1,679" could as well be 1679, with 1.679; others as they are."""
    codes, texts = distinct(column)
    if _form(texts) != "grouped":
        return column
    values = _parse(texts, "comma")
    known = ~np.isnan(values)
    if known.sum() < (~np.isnan(_parse(texts, "grouped"))).sum():
        return column
    if known.all():
        return pd.Series(np.append(values, np.nan)[codes], column.index)
    plain = [repr(v) if v == v else text for v, text in zip(values.tolist(), texts, strict=True)]
    return pd.Series(np.array([*plain, None], object)[codes], column.index, column.dtype)


def _one_unit(texts: Sequence[str], form: str) -> bool:
    """Whether all amounts have the same currency or sign, or none."""
    found = (AMOUNTS[form].match(text) for text in texts)
    return len({match["before"] or match["after"] or "" for match in found if match}) <= 1


def _parse(texts: Sequence[str], form: str) -> np.ndarray:
    """float64 (k,) of texts in one form, NaN for those that are none."""
    if form == "date":
        good = [i for i, text in enumerate(texts) if _DATE.match(text)]
        values = np.full(len(texts), np.nan)
        if good:
            found = pd.Series([texts[i] for i in good])
            moments = pd.to_datetime(found, utc=True, errors="coerce", format="ISO8601")
            values[good] = _days(moments)
        return values
    parse = _plain if form == "plain" else lambda text: _of_amount(text, form)
    return np.array([parse(text) for text in texts], np.float64)


def _plain(text: str) -> float:
    """The number a text stands for, NaN if none ("1_000" is one to Python, not to people)."""
    if text.lower() in ("true", "false"):
        return float(text.lower() == "true")
    try:
        return np.nan if "_" in text else float(text)
    except ValueError:
        return np.nan


def _of_amount(text: str, form: str) -> float:
    """The number in "$1,118.27", "11.2%", "(5.00)" or, with commas for points, "1.118,27 €"."""
    if np.isfinite(plain := _plain(text)) and (form == "grouped" or "." not in text):
        return plain
    found = AMOUNTS[form].match(text)
    if not found or bool(found["open"]) != bool(found["close"]):
        return np.nan
    if found["before"] and found["after"]:
        return np.nan
    digits = re.sub(r"\D", "", found["whole"])
    value = float(digits + (found["fraction"] or "").replace(",", "."))
    negative = bool(found["open"]) or (found["sign"] or found["inner"] or "+") in "-−"
    return -value if negative else value


def _days(moments: pd.Series) -> np.ndarray:
    epoch = pd.Timestamp("1970-01-01", tz="UTC")
    return ((moments - epoch) / pd.Timedelta(days=1)).to_numpy(np.float64)
