"""How the command ends: a mistake is one line on standard error and an exit code (``nas.cli``)."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from nas import terminal

# Errors of a write for lack of room; they do not name the file.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Command(click.Command):
    """A command that adds to the error of a failed write what the user can do about it."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OSError as error:
            if repair := _repair(error, ctx.params):
                error.add_note(repair)
            raise


def _repair(error: OSError, given: dict[str, Any]) -> str:
    out: Path | None = given.get("out") or given.get("run")
    if error.errno in _NO_ROOM:
        begun = "resume" in given and out is not None and (out / "task.json").exists()
        return "make room" + (", and go on with --resume" if begun else "")
    if "out" in given and out is not None and error.filename is not None:
        failed = Path(error.filename)
        if out.is_relative_to(failed) or failed.is_relative_to(out):
            return "choose another place with --out"
    return ""


def guarded(call: Callable[[], Any]) -> int:
    """Call a command and return its exit code."""
    from nas.task import InputError

    try:
        result = call()
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f" (see `{context.command_path} --help`)" if context else ""
        message = " ".join(error.format_message().split()).rstrip(".")
        terminal.line(f"error: {message}{hint}", err=True)
        return error.exit_code
    except InputError as error:
        terminal.line(f"error: {error}", err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort) as error:
        # click raises its own on top of a KeyboardInterrupt that may say what was kept.
        terminal.line(str(error.__cause__ or error) or "interrupted", err=True)
        return 130
    except BrokenPipeError:  # `nas … | head`: the reader has what it wanted
        sys.stderr.close()
        return 0
    except OSError as error:  # a full disk, a folder that may not be written
        if error.filename is None and error.errno not in _NO_ROOM:
            raise
        where = f"{error.filename}: " if error.filename else ""
        parts = (f"{where}{error.strerror}", *getattr(error, "__notes__", ()))
        terminal.line(f"error: {'; '.join(parts)}", err=True)
        return 1
