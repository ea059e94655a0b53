"""Objects of other libraries: turned into the frames, arrays and lists that readers take.

None of the libraries is imported here: a polars frame offers Arrow data, a torch data set
its items, and an object of a library that was never imported cannot be one of its kind.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from nas.data.forms import arrow_frame, plain_frame
from nas.data.limits import refuse_larger
from nas.data.samples import PART_NAMES, of_tensor
from nas.task import InputError, UsageError

EXPECTED = (
    "give a DataFrame, (X, y) of arrays, a list of texts, waves, clouds or graphs with their"
    " labels, or the path of a file or folder"
)
_SAME_SIZE = "resize them, or save them as files in a folder for each class"
# What to call on an object of a library whose data is not read, by the library's name.
_REPAIRS = {
    "pyspark": "call .toPandas()",
    "dask": "call .compute()",
    "tensorflow": "give (X, y) of NumPy arrays, as by .numpy()",
    "jax": "give (X, y) of NumPy arrays, as by numpy.asarray(x)",
    "dgl": "convert it by torch_geometric.utils.from_dgl",
}


def plain_object(source: Any) -> Any:
    """A source of another library as a frame, as arrays or a list with labels; others unchanged.

    Read are pandas frames with sparse columns; tables of polars, pyarrow, Hugging Face and
    whatever else offers Arrow data; SciPy's sparse matrices; torch data sets and loaders of
    (x, y); dictionaries of columns, or of tables by the names of the parts.

    Raises UsageError, with the form to convert to, for objects that are known but not read.
    """
    if isinstance(source, tuple) and len(source) == 2:
        return _plain(source[0]), _plain_labels(source[1])
    return _plain(source)


def refuse_unknown(source: Any) -> None:
    """Raise UsageError for an object that is of no form at all."""
    if hasattr(source, "train_dataloader"):
        raise UsageError("a data module is not read; give the data set that it loads")
    kind = type(source)
    name = f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
    repair = _REPAIRS.get(kind.__module__.partition(".")[0], EXPECTED)
    raise UsageError(f"data of the type {name} is not read; {repair}")


def _plain(x: Any) -> Any:
    if isinstance(x, pd.DataFrame):
        return plain_frame(x)
    if isinstance(x, pd.Series):
        return x.to_frame(x.name if x.name is not None else "x")
    if isinstance(x, Mapping):
        return _of_mapping(x)
    if type(x).__module__.partition(".")[0] in _REPAIRS:
        refuse_unknown(x)
    if hasattr(x, "toarray") and hasattr(x, "nnz"):  # SciPy
        refuse_larger(x.dtype.itemsize * x.shape[0] * x.shape[1], "the sparse matrix takes",
                      "keep fewer columns, as by sklearn.decomposition.TruncatedSVD")  # fmt: skip
        return x.toarray()
    if hasattr(x, "features") and hasattr(x, "column_names"):
        return _of_hugging_face(x)
    if callable(getattr(x, "collect", None)) and hasattr(x, "collect_schema"):
        x = x.collect()  # a query of polars
    if _offers_arrow(x):
        return _of_arrow(x)
    if _is_torch_data(x):
        return _of_torch(x)
    if isinstance(x, list) and x and all(map(_is_picture, x)):
        return _of_pictures(x)
    return x


def _is_picture(x: Any) -> bool:
    return hasattr(x, "getbands")  # Pillow


def _of_pictures(x: list[Any]) -> np.ndarray:
    """An array (n, H, W, channels) of Pillow's images of one size."""
    from nas.data.images import of_pillow

    found = of_pillow(x)
    if len({(item.shape, item.dtype == np.uint8) for item in found}) > 1:
        raise UsageError(f"the images differ in size or mode; {_SAME_SIZE}")
    return np.stack(found)


def _plain_labels(y: Any) -> Any:
    """Labels of another library as a pandas series or frame; others unchanged."""
    if isinstance(y, pd.DataFrame):
        return plain_frame(y)
    if isinstance(y, pd.Series):
        return plain_frame(y.to_frame()).iloc[:, 0]
    if hasattr(y, "toarray") and hasattr(y, "nnz"):
        return y.toarray()
    if _offers_arrow(y):
        return _of_arrow(y)
    if hasattr(y, "__arrow_c_array__") or callable(getattr(y, "to_pandas", None)):
        return y.to_pandas()
    return y


# Tables ----------------------------------------------------------------------------------


def _offers_arrow(x: Any) -> bool:
    return hasattr(x, "__arrow_c_stream__") and not isinstance(x, (pd.DataFrame, pd.Series))


def _of_arrow(x: Any) -> pd.DataFrame | pd.Series:
    """A frame of tables, a series of columns."""
    import pyarrow as pa

    found = x if isinstance(x, (pa.Table, pa.ChunkedArray)) else None
    if found is None and (hasattr(x, "schema") or hasattr(x, "columns")):
        found = pa.table(x)
    elif found is None:
        found = pa.chunked_array(x)
    if isinstance(found, pa.Table):
        return arrow_frame(found)
    name = getattr(x, "name", None)
    return pd.Series(found.to_pandas(), name=name or None)


def _of_hugging_face(x: Any) -> pd.DataFrame:
    """A frame of a data set; what it says are class labels is a category."""
    if not hasattr(x, "data") or not hasattr(x, "__len__"):
        raise UsageError("a streamed data set is not read; load it without streaming=True")
    media = {"Image": "images", "Audio": "sounds", "Video": "videos"}
    for name, feature in x.features.items():
        if what := media.get(type(feature).__name__):
            raise UsageError(
                f"the column {name!r} of the data set holds {what}, which are not read from it;"
                " save them as files in a folder for each class, or give (X, y) of arrays"
            )
    frame: pd.DataFrame = x.with_format(None).to_pandas()
    for name, feature in x.features.items():
        if type(feature).__name__ == "ClassLabel":
            frame[name] = frame[name].where(frame[name] >= 0).astype("Int64").astype("category")
    return frame


def _of_mapping(x: Mapping[Any, Any]) -> Any:
    """A frame of columns by their names, or of tables by the names of the parts."""
    values = {str(name): value for name, value in x.items()}
    if values and all(name.lower() in PART_NAMES for name in values):
        frames = {name: _plain(value) for name, value in values.items()}
        if all(isinstance(frame, pd.DataFrame) for frame in frames.values()):
            taken = [name for name, frame in frames.items() if "split" in frame]
            if taken:
                raise UsageError(f"the part {taken[0]!r} has a column 'split'; rename it")
            parts = [frame.assign(split=name) for name, frame in frames.items()]
            return pd.concat(parts, ignore_index=True)
    lengths = {len(v) for v in values.values() if hasattr(v, "__len__") and not isinstance(v, str)}
    flat = all(getattr(v, "ndim", 1) == 1 and hasattr(v, "__len__") for v in values.values())
    if (
        values
        and flat
        and len(lengths) == 1
        and not any(isinstance(v, str) for v in values.values())
    ):
        return pd.DataFrame({name: list(value) for name, value in values.items()})
    raise UsageError(
        "a dictionary is read where it holds columns of equal length by their names, or tables by"
        f" train, val and test; {EXPECTED}"
    )


# Torch -----------------------------------------------------------------------------------


def _is_torch_data(x: Any) -> bool:
    data = sys.modules.get("torch.utils.data")
    return data is not None and isinstance(x, (data.Dataset, data.DataLoader))


def _refuse_sampler(loader: Any) -> None:
    """Raise UsageError where a loader draws some of its samples alone: others may be held out."""
    from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler

    usual = type(loader.sampler) in (RandomSampler, SequentialSampler)
    if not usual or type(loader.batch_sampler) not in (BatchSampler, type(None)):
        raise UsageError(
            "a DataLoader with a sampler of its own is not read, as all samples of its data set"
            " would be; give torch.utils.data.Subset(dataset, rows)"
        )


def _of_torch(x: Any) -> Any:
    """The items (x, y) of a data set as (X, y): an array where all have one shape, else a list.

    Graphs of torch_geometric are left to their reader.
    """
    given = x
    x = getattr(x, "dataset", x) if hasattr(x, "batch_size") else x  # a loader shuffles
    if not hasattr(x, "__len__") or not hasattr(x, "__getitem__"):
        raise UsageError("a torch data set without a length is not read; give one with items")
    if x is not given:
        _refuse_sampler(given)
    if not len(x):
        raise UsageError("the torch data set is empty")
    first = _item(x, 0)
    if hasattr(first, "edge_index"):
        return x
    if not isinstance(first, (tuple, list)) or len(first) != 2:
        raise UsageError(
            f"the items of the torch data set are {type(first).__name__}; expected (x, y) of one"
            " input and one label each"
        )
    inputs, labels = _array(first[0]), _array(first[1])
    size = inputs.nbytes if isinstance(inputs, np.ndarray) else 0
    refuse_larger(size * len(x), "the torch data set takes", "give fewer or smaller samples")
    pairs = [_item(x, i) for i in range(len(x))]
    items, answers = [item for item, _ in pairs], [_array(label) for _, label in pairs]
    y = np.stack(answers) if isinstance(labels, np.ndarray) else answers
    if all(map(_is_picture, items)):
        return _of_pictures(items), y
    found = [_array(item) for item in items]
    shapes = {getattr(item, "shape", None) for item in found}
    if len(shapes) == 1 and isinstance(inputs, np.ndarray):
        return np.stack(found), y
    if isinstance(inputs, np.ndarray) and inputs.ndim == 3:
        raise UsageError(f"the images of the torch data set differ in size; {_SAME_SIZE}")
    return found, y


def _item(x: Any, i: int) -> Any:
    try:
        return x[i]
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(
            f"item {i} of the torch data set cannot be read: {type(error).__name__}: {reason}"
        ) from error


def _array(item: Any) -> Any:
    """A tensor, an image or a number as an array; texts as they are."""
    if hasattr(item, "detach"):
        return of_tensor(item)
    if isinstance(item, str):
        return item
    return np.asarray(item)
