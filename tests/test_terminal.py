"""What strangers' files hold reaches a terminal as text, and tables fit into it uncut."""

from __future__ import annotations

import ast
import csv
import errno
import io
import re
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from default_run import mostly_slow

from nas import cli, show, terminal
from nas.driver import Progress
from nas.progress import Display
from nas.run import Run
from nas.task import Budget

ROOT = Path(__file__).parents[1]
EARLIER = Path(__file__).parent / "earlier_format"
STANDALONE = ROOT / "nas" / "export" / "folder"  # programs of the user's, without this package
HOSTILE = {
    "title": "\x1b]0;owned\x07price",
    "clear": "\x1b[2J\x1b[Hprice",
    "c1": "\x9b31mprice",
    "backspace": "price\x08\x08\x08free",
    "carriage return": "price\rfree",
    "reversed": "price\u202egpj.exe",
    "isolate": "price\u2066\u2067x",
    "separator": "price\u2028free",
}
ECHOES = ("click.echo", "click.secho", "sys.stdout.write", "sys.stderr.write")
CUT = re.compile(r"\S…")  # a range, 1 … 6, is no cut word
MARKUP = ["price[USD]", "/x", "[/x]", "[red]price[/red]", "[link=http://a.b]x[/link]", ":smile:"]


def steering(text: str) -> list[str]:
    """The characters of a text that steer a terminal or its reader."""
    bidi = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return [
        c
        for c in text
        if (unicodedata.category(c) in ("Cc", "Zl", "Zp") and c not in "\n\t")
        or unicodedata.bidirectional(c) in bidi
    ]


def table(name: str) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    classes = [name, "other"]
    return pd.DataFrame({name: rng.random(60), "b": rng.random(60), "y": classes * 30})


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_steering_character_is_shown_as_an_escape(name: str) -> None:
    assert steering(name)
    shown = terminal.visible(name)
    assert steering(shown) == []
    assert "\\" in shown
    assert "price" in shown


def test_ordinary_text_and_undecodable_file_names_can_be_printed() -> None:
    assert terminal.visible("größe 中文 ± → \t\n") == "größe 中文 ± → \t\n"
    assert terminal.visible("a\nb", lines=False) == "a\\nb"
    assert terminal.visible("caf\udce9.png").encode() == b"caf\\udce9.png"


@pytest.mark.parametrize("name", [*HOSTILE.values(), *MARKUP])
@pytest.mark.parametrize("target", ["y", "absent"])
def test_names_in_a_users_data_are_text_in_what_a_command_prints(
    name: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table(name).to_csv(tmp_path / "data.csv", index=False, quoting=csv.QUOTE_ALL)
    (tmp_path / "pace.json").write_text('{"mlp": 1.0}')  # else a network would be timed
    words = ["design", str(tmp_path / "data.csv"), "-t", target, "-f", "mlp"]
    words += ["--pace", str(tmp_path / "pace.json")]
    if target == "absent":
        with pytest.raises(SystemExit):
            cli.main(words)
        out, err = capsys.readouterr()
        printed = out + err
    else:
        printed = CliRunner().invoke(cli.cli, words, catch_exceptions=False).output
    assert steering(printed) == []
    assert name in printed or terminal.visible(name) in printed or repr(name)[1:-1] in printed


def test_nothing_else_in_the_package_prints() -> None:
    found = []
    for path in (ROOT / "nas").rglob("*.py"):
        if path.name == "terminal.py" or path.is_relative_to(STANDALONE):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Name) and called.id == "print":
                found.append(f"{path.name}:{node.lineno} print")
            if isinstance(called, ast.Attribute) and ast.unparse(called) in ECHOES:
                found.append(f"{path.name}:{node.lineno} {called.attr}")
            if isinstance(node, ast.ImportFrom) and node.module == "rich.console":
                found += [
                    f"{path.name}:{node.lineno} {a.name}" for a in node.names if a.name == "Console"
                ]
    assert found == []


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 120])
def test_the_front_never_cuts_a_figure(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "width", lambda *_: columns)
    run = Run(EARLIER / "run")
    show.front(run, front := run.front())
    printed = capsys.readouterr().out
    quality = run.task.quality.metric
    for c in front:
        assert show.figure(c.metrics[quality]) in printed
        assert f"{c.metrics['params']:,.0f}" in printed
        assert f"{c.metrics['latency_ms']:.3g} ±" in printed
    assert not CUT.search(printed)
    table_lines = [line for line in printed.splitlines() if line[:1] in "┏┃┡│├└"]
    assert max(map(len, table_lines)) <= max(columns, 58)
    assert ("FLOPs" in printed) == (columns == 120)


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize(
    "command", ["families mlp", "families vit", "rules groupnorm-for-small-batches"]
)
def test_tables_of_rules_and_spaces_fit_into_the_terminal(
    command: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "width", lambda *_: columns)
    printed = CliRunner().invoke(cli.cli, command.split(), catch_exceptions=False).output
    assert not CUT.search(printed)
    assert max(map(len, printed.splitlines())) <= columns


@pytest.mark.parametrize("columns", mostly_slow([80, 120], [80]))
def test_a_design_fits_into_the_terminal(
    columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "width", lambda *_: columns)
    table("a").to_csv(tmp_path / "data.csv", index=False)
    words = ["design", str(tmp_path / "data.csv"), "-t", "y"]
    printed = CliRunner().invoke(cli.cli, words, catch_exceptions=False).output
    assert not CUT.search(printed)
    assert max(map(len, printed.splitlines())) <= columns
    assert "latency ms" in printed


@pytest.mark.parametrize("encoding", ["iso-8859-2", "ascii"])
def test_signs_that_the_encoding_of_the_output_lacks_end_no_command(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding))
    with pytest.raises(SystemExit) as end:
        cli.main(["status", str(EARLIER / "run")])
    assert not end.value.code
    assert b" +-" in printed.getvalue()


def test_a_terminal_that_draws_nothing_over_is_shown_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    display = Display(Path("data.csv"))
    display.update(Progress(None, (), 1.0, Budget(), "start:1/2"))
    display.close()
    assert "phase=start:1/2" in capsys.readouterr().err


def test_output_to_a_terminal_that_was_closed_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Gone(io.StringIO):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def write(self, text: str) -> int:
            raise OSError(self.number, "gone")

    monkeypatch.setattr(sys, "stdout", Gone(errno.EIO))
    terminal.echo("report")
    terminal.console(columns=80).print("report")
    monkeypatch.setattr(sys, "stdout", Gone(errno.ENOSPC))
    with pytest.raises(OSError, match="gone"):
        terminal.echo("report")


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(1.0, "100%"), (0.25, "25%"), (0.004, "0.4%"), (0.00057, "0.06%"), (0, "0%")],
)
def test_a_small_fraction_is_not_shown_as_none(fraction: float, text: str) -> None:
    assert terminal.percent(fraction) == text
