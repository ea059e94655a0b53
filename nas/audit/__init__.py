"""The rules and the monitors turned on anybody's network: what is likely to go wrong, where, the
evidence, why it matters and what to change.

What a network is made of is read off one forward pass (``nas.audit.anatomy``); with samples
and labels a short training is watched (``nas.audit.checkup``). Both are judged by the checks
of ``nas.checks``. torch is imported when there is something to audit.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import textwrap
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.checks import Finding, check
from nas.files import write_whole
from nas.layers import Anatomy
from nas.task import InputError, UsageError, plain

if TYPE_CHECKING:
    from torch import nn

    from nas.audit.checkup import Checkup
    from nas.audit.feed import Feed

BATCH = 32  # of the short training where none is given
WIDTH = 100  # columns of the text
NOTHING = "nothing serious was found"


@dataclass(frozen=True)
class Audit:
    """What was found in a network; ``text``, ``to_dict`` and ``figure`` show it."""

    name: str
    findings: tuple[Finding, ...]
    anatomy: Anatomy
    checkup: Checkup | None = None
    notes: tuple[str, ...] = ()

    @property
    def serious(self) -> tuple[Finding, ...]:
        """The findings that are likely to make the training fail, or its figures wrong."""
        return tuple(f for f in self.findings if f.severity == "serious")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; numbers that are not finite become None."""
        net, seen = self.anatomy, self.checkup
        training = None
        if seen is not None:
            training = asdict(seen.observed) | {
                "lr": seen.lr,
                "losses": seen.losses,
                "gradient_norms": {sample.step: sample.norms for sample in seen.samples},
                "range_test": asdict(seen.range_test),
                "seconds": round(seen.seconds, 2),
            }
        kept = ("name", "kind", "type", "owner", "shape", "params")
        layers = [layer for layer in net.layers if layer.kind not in ("input", "join")]
        result: dict[str, Any] = plain(
            {
                "model": self.name,
                "serious": len(self.serious),
                "findings": [asdict(f) | {"why": f.why} for f in self.findings],
                "params": net.params,
                "layers": [{name: getattr(layer, name) for name in kept} for layer in layers],
                "training": training,
                "notes": self.notes,
            }
        )
        return result

    def text(self, width: int = WIDTH) -> str:
        """The findings by severity, in at most ``width`` columns."""
        lines = [*textwrap.wrap(self.summary(), width), ""]
        for severity in ("serious", "advice"):
            found = [f for f in self.findings if f.severity == severity]
            if found:
                lines += [f"{severity.upper()} ({len(found)})", ""]
            for finding in found:
                lines += [*_finding_lines(finding, width), ""]
        if not self.serious:
            lines += [NOTHING, ""]
        if self.checkup is not None:
            lines += textwrap.wrap(training_summary(self.checkup), width)
        for note in self.notes:
            lines += textwrap.wrap(f"note: {note}", width, subsequent_indent="      ")
        return "\n".join(lines).rstrip()

    def figure(self, path: str | Path) -> None:
        """Write a page with the curves of the training, which works offline.

        Raises UsageError where nothing was trained.
        """
        if self.checkup is None:
            raise UsageError("a figure shows a training: give samples with labels (--data)")
        from nas.audit.page import page

        write_whole(path, page(self, self.checkup))

    def summary(self) -> str:
        """What was audited, in a line."""
        net = self.anatomy
        weighted = sum(layer.depth for layer in net.layers if layer.weighted)
        text = f"{self.name}: {net.params:,} parameters in {weighted} weighted layers"
        if net.samples is not None:
            text += f"; {net.samples:,} samples"
        if net.classes:
            text += f", {net.classes:,} classes"
        if net.batch_size is not None:
            text += f", batches of {net.batch_size:,}"
        return text


def audit(
    network: nn.Module,
    x: Any = None,
    y: Any = None,
    *,
    shape: Sequence[int] | Sequence[Sequence[int]] | None = None,
    data: Any = None,
    target: str | Sequence[str] | None = None,
    classes: int | None = None,
    samples: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    limit_s: float = 60.0,
    name: str = "",
    on_phase: Callable[[str], None] = lambda phase: None,
    **reading: Any,
) -> Audit:
    """Find what is likely to go wrong with a network and its training.

    Its input is one of: ``x``, a tensor whose first axis are the samples, or a tuple or
    dictionary of several, as ``forward`` takes them; ``shape``, that of one sample, of which
    random ones are drawn (several for several inputs); ``data``, which ``nas.data.read`` reads
    with ``target`` and ``reading`` (its other options) or has read, given as
    ``nas.audit.feed.from_dataset`` says.

    With labels (``y``, or those of ``data``) a short training of some ``limit_s`` seconds is
    watched. Integers are classes, columns of 0 and 1 yes/no questions, other labels numbers, and
    the loss is the cross-entropy or the squared error of standardised numbers.

    ``batch_size`` (on one device), ``lr`` and ``weight_decay`` (of AdamW) are those that the
    network is meant to be trained with, ``samples`` and ``classes`` the numbers of them that it
    is meant for: what is not known is not judged. The network is the same afterwards.

    Raises UsageError and InputError, each in one line.

    >>> import nas, torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.Linear(64, 3))
    >>> [finding.rule for finding in nas.audit(net, shape=(16,)).findings]
    ['non-linear']
    """
    from torch import nn

    from nas.audit import anatomy, feed

    if not isinstance(network, nn.Module):
        raise UsageError(f"an audit takes a torch.nn.Module, not {type(network).__name__}")
    if sum(given is not None for given in (x, shape, data)) != 1:
        raise UsageError("give the network's input as one of: samples, their shape, a data set")
    network = getattr(network, "_orig_mod", network)  # what torch.compile was given
    if shape is not None:
        several = shape if shape and isinstance(shape[0], Sequence) else [shape]
        fed = feed.from_shape(network, several)  # type: ignore[arg-type]
    elif x is not None:
        fed = feed.from_tensors(network, x, y, batch_size or BATCH)
    else:
        from nas.data import Dataset, read

        dataset = data if isinstance(data, Dataset) else read(data, target=target, **reading)
        fed = feed.from_dataset(network, dataset, batch_size or BATCH)
    shapes = [tuple(t.shape[1:]) for t in (*fed.args, *fed.kwargs.values()) if hasattr(t, "shape")]
    on_phase(f"one forward pass of samples of shape {', '.join(map(str, shapes))}")
    net = replace(
        anatomy.anatomy(network, fed.args, fed.kwargs),
        padding_error=feed.padding_error(network, fed),
        company_error=feed.company_error(network, fed),
        samples=fed.samples if samples is None else samples,
        classes=fed.classes if classes is None else classes,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        whole_graph=fed.whole_graph,
    )
    seen, note = _train(network, fed, net, limit_s, on_phase)
    if seen is not None:
        net = replace(_reached_later(net, seen), observed=seen.observed)
    notes = tuple(text for text in (fed.note, note) if text)
    return Audit(name or type(network).__name__, tuple(check(net)), net, seen, notes)


def _train(
    network: nn.Module, fed: Feed, net: Anatomy, limit_s: float, on_phase: Callable[[str], None]
) -> tuple[Checkup | None, str]:
    """The short training, where there is something to train on, and a note about it."""
    if fed.batches is None or fed.problem is None:
        return None, "nothing was trained; with labels (--data) a short training is watched too"
    if len(net.unreached) == sum(p.requires_grad for p in network.parameters()):
        return None, "nothing was trained, as no parameter gets a gradient"
    from nas.audit.checkup import TooSlow, checkup
    from nas.audit.feed import OutputShape

    try:
        seen = checkup(
            network,
            fed.problem,
            fed.batches,
            input_scale=fed.scale,
            lr=net.lr,
            weight_decay=net.weight_decay,
            limit_s=limit_s,
            on_phase=on_phase,
        )
    except (OutputShape, TooSlow) as error:
        return None, f"{type(network).__name__} could not be trained on this data: {error}"
    short = "its steps take long, so there were few: a longer --time-limit shows more"
    return seen, short if seen.short else ""


def _reached_later(net: Anatomy, seen: Checkup) -> Anatomy:
    """Without the parameters that got a gradient in training, as an expert that few samples
    use."""
    reached = {name for sample in seen.samples for name in sample.norms}
    unreached = net.unreached.items()
    left = {name: size for name, size in unreached if name.rpartition(".")[0] not in reached}
    return replace(net, unreached=left)


# Somebody's network -------------------------------------------------------------------------------


def load(model: str, arguments: Mapping[str, Any] | None = None) -> nn.Module:
    """The network that ``model`` names, which runs the code where it stands: a class or a function
    that is called with ``arguments``, or a module as it is. "package.module:Class",
    "file.py:Class", "file.py:function()". The same weights are drawn each time.

    Raises UsageError and InputError, each in one line.
    """
    import torch
    from torch import nn

    torch.manual_seed(0)
    where, _, name = model.rpartition(":")
    name = name.removesuffix("()")
    if not where or not name.isidentifier():
        raise UsageError(
            f"{model!r} names no network; write package.module:Class, file.py:Class or"
            " file.py:function()"
        )
    found = _attribute(_module(where), where, name)
    if not isinstance(found, nn.Module):
        if not callable(found):
            raise UsageError(f"{model} is {type(found).__name__}, not a network or what makes one")
        found = _guarded(model, lambda: found(**(arguments or {})))
    elif arguments:
        raise UsageError(f"{model} is a network already: it takes no arguments")
    if not isinstance(found, nn.Module):
        raise UsageError(f"{model} gives {type(found).__name__}, not a torch.nn.Module")
    return found


def _module(where: str) -> Any:
    if not where.endswith(".py"):
        if "" not in sys.path:
            sys.path.insert(0, "")  # modules of the working folder, as with `python -m`
        try:
            return _guarded(where, lambda: importlib.import_module(where))
        except ModuleNotFoundError as error:
            raise UsageError(f"cannot import {where}: {error}") from None
    path = Path(where)
    if not path.is_file():
        raise UsageError(f"{path} does not exist")
    sys.path.insert(0, str(path.parent.resolve()))  # what it imports beside itself
    # Not its own name, which may be that of a module that is needed.
    name = f"audited_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _guarded(where, lambda: spec.loader.exec_module(module))  # type: ignore[union-attr]
    return module


def _attribute(module: Any, where: str, name: str) -> Any:
    import difflib

    if not hasattr(module, name):
        near = difflib.get_close_matches(name, vars(module), n=1)
        raise UsageError(f"{where} has no {name}" + (f"; did you mean {near[0]}?" if near else ""))
    return getattr(module, name)


def _guarded(what: str, call: Callable[[], Any]) -> Any:
    """Run somebody's code; what it raises becomes one line that says where."""
    try:
        return call()
    except ModuleNotFoundError as error:
        raise InputError(f"{what}: {error}") from None
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f" ({Path(last.filename).name}, line {last.lineno})"
        if last.filename == __file__ or isinstance(error, SyntaxError):  # which says its own
            place = ""
        text = str(error).strip().splitlines()
        raise InputError(
            f"{what} fails: {type(error).__name__}: {text[0] if text else ''}{place}"
        ) from error


# What is shown ------------------------------------------------------------------------------------


def _finding_lines(finding: Finding, width: int) -> list[str]:
    head = f"{finding.where}  [{finding.rule}]"
    lines = textwrap.wrap(head, width, subsequent_indent="  ", break_on_hyphens=False)
    parts = (("found", finding.evidence), ("why", finding.why), ("change", finding.change))
    for head, text in parts:
        lines += textwrap.wrap(
            text, width, initial_indent=f"  {head:<8}", subsequent_indent=" " * 10
        )
    return lines


def training_summary(seen: Checkup) -> str:
    """The short training in a sentence: its losses, and what the range test found."""
    test = seen.range_test
    text = f"trained for {len(seen.losses)} steps at a rate of {seen.lr:.2g}"
    if seen.losses:
        text += f": loss {seen.losses[0]:.3g} → {seen.observed.end:.3g}"
    text += f" (uniform prediction {seen.observed.chance:.3g})"
    if test.steepest is None:
        text += f"; in {len(test.rates)} steps from {test.rates[0]:.0e} to {test.rates[-1]:.0e} it"
        text += " did not fall clearly"
    else:
        text += f"; it falls fastest at {test.steepest:.2g}"
        text += f" and has risen again at {test.diverges:.2g}" if test.diverges else ""
    return f"{text} ({seen.seconds:.0f} s)"
