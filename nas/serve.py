"""``nas serve``: the smallest server that answers with a network's predictions.

It listens on 127.0.0.1 and wants a token, which it prints at the start: ``Authorization: Bearer
TOKEN``. A request is JSON, and so is every answer; bad input is refused in one line.

- ``GET /health`` (without the token) says that it is alive.
- ``GET /`` says what it predicts, and what a request holds.
- ``POST /predict`` takes ``{"rows": [{"age": 41, …}, …]}`` of a table, ``{"rows": ["text", …]}``,
  or ``{"files": ["BASE64", …], "suffix": ".png"}``, and answers ``{"predictions": [...]}`` with the
  probability of each label; with ``"interval": 0.9`` of numbers an interval of this level.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
import tempfile
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.data.folders import CLOUDS, IMAGES, SERIES, SOUNDS, Files
from nas.data.series_files import ARCHIVES
from nas.data.tables import SUFFIXES
from nas.model import Model
from nas.task import InputError, Modality, UsageError

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse

MOST_BYTES = 2**25  # of a request
MOST_SAMPLES = 10_000
HOSTS = ["127.0.0.1", "localhost", "[::1]"]
_OF_ROWS = ("tabular", "text", "multimodal")
# What the files of a request may be: no lists of files, and no archives that may name some.
_OF_FILES: dict[Modality, Files] = {
    "images": IMAGES,
    "audio": SOUNDS,
    "pointclouds": CLOUDS,
    "series": Files((*SUFFIXES, *ARCHIVES, ".npz"), "series"),
    "graphs": Files((".npz",), "graph"),
}


def app(model: Model, token: str, hosts: list[str] | None = None) -> Starlette:
    """The application, for any ASGI server.

    Args:
        model: That ``nas.load`` returns.
        token: What a request must say.
        hosts: Names under which it may be called; default: this machine's.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    lock = threading.Lock()  # one prediction at a time: a network has one thread

    def guarded(
        answer: Callable[[Request], Awaitable[JSONResponse]],
    ) -> Callable[[Request], Awaitable[JSONResponse]]:
        async def checked(request: Request) -> JSONResponse:
            given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
            if not secrets.compare_digest(given.encode(), token.encode()):
                return _error(401, "the token is missing or wrong: Authorization: Bearer TOKEN")
            return await answer(request)

        return checked

    async def health(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def about(_: Request) -> JSONResponse:
        return JSONResponse(description(model))

    async def predict(request: Request) -> JSONResponse:
        from starlette.concurrency import run_in_threadpool

        size = request.headers.get("content-length", "0")
        if not size.isdigit() or int(size) > MOST_BYTES:
            return _error(413, f"a request holds {MOST_BYTES:,} bytes at most")
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MOST_BYTES:
                return _error(413, f"a request holds {MOST_BYTES:,} bytes at most")

        def work() -> list[dict[str, Any]]:
            with lock:
                return answer(model, body)

        try:
            return JSONResponse({"predictions": await run_in_threadpool(work)})
        except InputError as error:
            return _error(400, str(error))

    routes = [
        Route("/health", health),
        Route("/", guarded(about)),
        Route("/predict", guarded(predict), methods=["POST"]),
    ]
    allowed = Middleware(TrustedHostMiddleware, allowed_hosts=hosts or HOSTS)
    return Starlette(routes=routes, middleware=[allowed])


def _error(status: int, message: str) -> JSONResponse:
    from starlette.responses import JSONResponse

    return JSONResponse({"error": " ".join(message.split())}, status_code=status)


def description(model: Model) -> dict[str, Any]:
    """What a network predicts, and what a request to it holds."""
    task = model.task
    profiles = [task.profile, *(member.profile for member in task.profile.members.values())]
    columns = [c.name for profile in profiles for c in profile.columns]
    columns += [n for n, m in task.profile.members.items() if not m.profile.columns]
    wanted: dict[str, Any] = {"rows": [dict.fromkeys(columns, "…")]}
    if task.modality in _OF_FILES:
        wanted = {"files": ["base64"], "suffix": _OF_FILES[task.modality].common[0]}
    if any(target.kind == "regression" for target in task.targets):
        wanted["interval"] = "a level such as 0.9, or nothing"
    return {
        "family": model.proxy.family,
        "modality": task.modality,
        "targets": [
            {"name": t.name, "kind": t.kind, "labels": list(t.labels)} for t in task.targets
        ],
        "request": wanted,
    }


def answer(model: Model, body: bytes) -> list[dict[str, Any]]:
    """The predictions for the JSON of a request, one object for each sample.

    Raises InputError, in one line, for anything that is no request.
    """
    try:
        content = json.loads(body)
    except (UnicodeDecodeError, ValueError, RecursionError):
        raise InputError("the request is not JSON") from None
    if not isinstance(content, dict):
        raise InputError('the request is no object with "rows" or "files"')
    interval = content.get("interval")
    if interval is not None and (not isinstance(interval, (int, float)) or interval is True):
        raise InputError('"interval" is no number between 0 and 1')
    if "rows" in content and model.task.modality in _OF_ROWS:
        return model.answer(_rows(model, content["rows"]), interval)
    if "files" in content and model.task.modality not in _OF_ROWS:
        return _of_files(model, content, interval)
    key = "rows" if model.task.modality in _OF_ROWS else "files"
    raise InputError(f'a request on {model.task.modality} holds "{key}"')


def _rows(model: Model, rows: Any) -> list[dict[str, Any]]:
    if not isinstance(rows, list) or not rows:
        raise InputError('"rows" is no list of samples')
    if len(rows) > MOST_SAMPLES:
        raise InputError(f"a request holds {MOST_SAMPLES:,} samples at most, got {len(rows):,}")
    if all(isinstance(row, str) for row in rows):
        names = [c.name for c in model.task.profile.columns]
        if model.task.modality != "text" or len(names) != 1:
            raise InputError("a row is an object of values by column")
        for place, row in enumerate(rows):
            _refuse_half(row, f"row {place + 1}")
        return [{names[0]: row} for row in rows]
    for place, row in enumerate(rows):
        if not isinstance(row, dict):
            raise InputError(f"row {place + 1} is no object of values by column")
        for name, value in row.items():
            if isinstance(value, (dict, list)):
                raise InputError(f"row {place + 1}: {name} is no number, text, true, false or null")
            _refuse_half(value, f"row {place + 1}: {name}")
    if model.task.modality == "multimodal":
        _refuse_paths(model)
    return rows


def _refuse_half(value: Any, where: str) -> None:
    """Raise InputError for a text with half of a character, as JSON's escapes allow."""
    try:
        str(value).encode()
    except UnicodeEncodeError:
        raise InputError(f"{where} holds half of a character (a lone surrogate)") from None


def _refuse_paths(model: Model) -> None:
    """A request must not name files of the server."""
    of_files = [
        name
        for name, member in model.task.profile.members.items()
        if member.modality not in ("tabular", "text")
    ]
    if of_files:
        raise UsageError(
            f"{', '.join(of_files)}: files beside other columns are not served; use `nas predict`"
        )


def _of_files(
    model: Model, content: Mapping[str, Any], interval: float | None
) -> list[dict[str, Any]]:
    files, suffix = content["files"], content.get("suffix", "")
    if not isinstance(files, list) or not files or len(files) > MOST_SAMPLES:
        raise InputError(f'"files" is no list of 1 to {MOST_SAMPLES:,} files in base64')
    if not isinstance(suffix, str) or not suffix.startswith(".") or not suffix[1:].isalnum():
        raise InputError('"suffix" is no ending like .png')
    of = _OF_FILES[model.task.modality]
    if not of.has(suffix):
        raise InputError(
            f"{suffix} files are no {of.noun} files; a request holds files that end in"
            f" {', '.join(of.common)}"
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for place, text in enumerate(files):
            try:
                data = base64.b64decode(text, validate=True)
            except (TypeError, ValueError, binascii.Error):
                raise InputError(f"file {place + 1} is not base64") from None
            (folder / f"{place:06d}{suffix}").write_bytes(data)
        try:
            frame = model.frame(_source(model, sorted(folder.iterdir())), interval=interval)[0]
        except InputError as error:
            raise InputError(
                str(error).replace(f"{folder}/", "").replace(str(folder), "")
            ) from None
    return _plain(frame.drop(columns="file_name", errors="ignore"))


def _source(model: Model, files: Sequence[Path]) -> Any:
    """Uploaded files as ``Model.frame`` takes them: their list where each is a sample, so that no
    table in them is taken for one; else their folder.

    Raises InputError for a table that lists files: they would be the server's.
    """
    import pandas as pd

    task, form, folder = model.task, model.task.profile.series, files[0].parent
    if task.modality == "graphs" or (form is not None and form.is_long):
        return folder
    if form is not None and (form.columns or not SERIES.has(files[0])):
        if any(map(SERIES.recognise, files)):
            raise InputError("a table that lists files is not served; send what the files hold")
        return folder
    return pd.DataFrame({"file_name": [str(file) for file in files]})


def _plain(frame: Any) -> list[dict[str, Any]]:
    """Rows of a frame as JSON has them."""
    found: list[dict[str, Any]] = json.loads(frame.to_json(orient="records"))
    return found


def serve(model: Model, port: int, token: str, on_start: Callable[[str], object]) -> None:
    """Answer until it is interrupted; ``on_start`` receives the address.

    Raises InputError where the port is taken.
    """
    import socket

    import torch
    import uvicorn

    torch.set_num_threads(1)
    # Of a socket that names TCP, asyncio sends small answers at once.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
    except OSError as error:
        raise InputError(f"port {port} cannot be used: {error.strerror}; choose --port") from None
    on_start(f"http://127.0.0.1:{listening.getsockname()[1]}")
    config = uvicorn.Config(app(model, token), log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listening])
