"""The dashboard's answers: the page and its scripts, updates, and the details of a candidate.

Everything is read with GET, and names studies by ids, never by paths. Requests without the token,
for another host or from another site are refused before anything is looked up.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import hmac
import html
import ipaddress
import json
import secrets
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from functools import cache
from http.cookies import CookieError, SimpleCookie
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from nas.dashboard.studies import Studies
from nas.export import document_page
from nas.report import explorer_css, explorer_html, explorer_js
from nas.task import InputError

# Journals are looked at this often, and a viewer hears at least this often that all is well.
REFRESH_S, ALIVE_S = 1.0, 15.0
# How often a study is looked for whose importances are out of date.
JUDGE_S = 10.0
# A design document is made in a process of its own, which may take so long.
DESIGN_S = 120.0
# A connection that has not sent the head of a request by then is closed.
REQUEST_S = 10.0
# Messages in one answer to a poll, beside the heads of studies.
_MESSAGES = 8

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",  # plotly.js writes style attributes
        "img-src data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def make_app(
    studies: Studies,
    token: str,
    *,
    host: str,
    names: Sequence[str] = (),
    prefix: str = "",
    is_closing: Callable[[], bool] = lambda: False,
) -> Guard:
    """The dashboard of some studies as an ASGI application; arguments as for ``serve``.
    ``is_closing`` says that streams are to end."""
    board = _Board(studies, is_closing)
    routes = [
        Route("/", board.page),
        *(Route(f"/{name}", board.asset) for name in board.assets),
        Route("/api/updates", board.updates),
        Route("/api/events", board.events),
        Route("/api/studies/{study}/candidates/{number:int}", board.detail),
        Route("/api/studies/{study}/candidates/{number:int}/recipe.yaml", board.recipe),
        Route("/api/studies/{study}/candidates/{number:int}/design.html", board.design),
    ]
    handlers: Any = dict.fromkeys((InputError, OSError), _unreadable)
    app = Starlette(routes=routes, lifespan=board.lifespan, exception_handlers=handlers)
    return Guard(app, token, host, names, prefix)


async def _unreadable(request: Request, error: Exception) -> Response:
    return PlainTextResponse("the run cannot be read now; try again\n", 503)


class Guard:
    """Lets requests through that bring the token, for a host that this is, from its own page."""

    def __init__(
        self, app: Starlette, token: str, host: str, names: Sequence[str], prefix: str
    ) -> None:
        self._app, self._token, self._prefix = app, token, prefix
        own = {"localhost", "127.0.0.1", "::1", host, *names}
        # Reached by an address of this machine, or by its name.
        self._any_address = host in ("0.0.0.0", "::")
        if self._any_address:
            own |= {socket.gethostname(), socket.getfqdn()}
        self._hosts = {name.lower() for name in own}
        # Cookies are shared between the ports of a host: two dashboards must not share one name.
        self._cookie = f"nas-{hashlib.sha256(token.encode()).hexdigest()[:8]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send_with_headers)
            return
        path: str = scope["path"]
        if self._prefix and path.startswith(self._prefix):
            scope = {**scope, "path": path[len(self._prefix) :] or "/"}
        await self._app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """What is answered in place of the page; None where all is right."""
        if scope["method"] != "GET":
            return PlainTextResponse("only GET is answered\n", 405, {"allow": "GET"})
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if not self._is_own(f"//{headers.get(b'host', '')}"):
            return PlainTextResponse("this is not the host that was asked for\n", 421)
        origin = headers.get(b"origin")
        if origin is not None and not self._is_own(origin):
            return PlainTextResponse("requests of other sites are not answered\n", 403)
        if headers.get(b"sec-fetch-site") == "cross-site" and (
            headers.get(b"sec-fetch-mode") != "navigate"
        ):
            return PlainTextResponse("requests of other sites are not answered\n", 403)
        if self._is_token(_token(scope["query_string"])):
            # The address without the token is what stays in the browser's history.
            cookie = f"{self._cookie}={self._token}; HttpOnly; SameSite=Lax; Path=/"
            return Response(status_code=303, headers={"location": "./", "set-cookie": cookie})
        if not self._is_token(self._brought(headers)):
            hint = "open the address that `nas dashboard` has printed: it holds the token\n"
            return PlainTextResponse(hint, 401, {"www-authenticate": "Bearer"})
        return None

    def _is_own(self, address: str) -> bool:
        """Whether an address, as "//HOST:PORT" or with its scheme, leads here."""
        try:
            name = (urlsplit(address).hostname or "").lower()
        except ValueError:
            return False
        if name in self._hosts:
            return True
        if not self._any_address:
            return False
        try:  # a page that makes its name point here cannot do so with an address
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _brought(self, headers: dict[bytes, str]) -> str:
        scheme, _, token = headers.get(b"authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return token
        try:
            found = SimpleCookie(headers.get(b"cookie", "")).get(self._cookie)
        except CookieError:
            return ""
        return found.value if found else ""

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self._token.encode())


def _token(query: bytes) -> str:
    """The token of an address; "" where it has none, or more fields than any of ours."""
    try:
        return parse_qs(query.decode("latin-1"), max_num_fields=20).get("token", [""])[0]
    except ValueError:
        return ""


class Connection(H11Protocol):
    """A connection that is closed where no request has come within ``REQUEST_S``: their number is
    limited, and those that send nothing would leave none for others."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(REQUEST_S, self._close_unused)

    def _close_unused(self) -> None:
        if self.cycle is None:
            self.transport.close()


@cache
def _assets() -> dict[str, tuple[bytes, str, str]]:
    """The files of the page: their content, packed, their kind and their version."""
    spec = find_spec("plotly")  # which is not imported: it would take a second
    assert spec is not None
    assert spec.origin is not None
    plotly = Path(spec.origin).parent / "package_data" / "plotly.min.js"
    contents = {
        "plotly.js": (plotly.read_bytes(), "text/javascript"),
        "explorer.js": (explorer_js().encode(), "text/javascript"),
        "explorer.css": (explorer_css().encode(), "text/css"),
    }
    # Once for all viewers: plotly.js is 1.4 MB then, which matters over ssh.
    return {
        name: (gzip.compress(content, 6), kind, hashlib.sha256(content).hexdigest()[:16])
        for name, (content, kind) in contents.items()
    }


class _Board:
    """The routes, and the task that looks for what is new."""

    def __init__(self, studies: Studies, is_closing: Callable[[], bool]) -> None:
        self._studies, self._is_closing = studies, is_closing
        # A viewer of an earlier server has seen other changes of the same numbers.
        self._life = secrets.token_hex(4)
        self._news = asyncio.Condition()
        self._designing = asyncio.Lock()
        self.assets = _assets()
        self._html = self._page_html()

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._judge())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            before = self._studies.last
            await asyncio.to_thread(self._studies.refresh)
            if self._studies.last != before:
                async with self._news:
                    self._news.notify_all()
            await asyncio.sleep(REFRESH_S)

    async def _judge(self) -> None:
        """Compute importances in processes of their own, one at a time, while nobody waits."""
        while True:
            await asyncio.sleep(JUDGE_S)
            if (study := await asyncio.to_thread(self._studies.to_judge)) is None:
                continue
            status, output = await _output("nas.dashboard.importance", study.source.place)
            if status == 0:
                self._studies.judge(study, json.loads(output))

    def _page_html(self) -> str:
        def address(name: str) -> str:
            return html.escape(f"{name}?{self.assets[name][2]}")

        return explorer_html(
            title="nas",
            head=f'<link rel="stylesheet" href="{address("explorer.css")}">',
            scripts=f'<script src="{address("plotly.js")}"></script>\n'
            f'<script src="{address("explorer.js")}"></script>',
        )

    async def page(self, request: Request) -> Response:
        return Response(self._html, media_type="text/html", headers={"cache-control": "no-store"})

    async def asset(self, request: Request) -> Response:
        content, kind, version = self.assets[request.url.path.rpartition("/")[2]]
        lasting = request.url.query == version
        headers = {
            "cache-control": "private, max-age=31536000, immutable" if lasting else "no-cache",
            "vary": "accept-encoding",
        }
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["content-encoding"] = "gzip"
        else:
            content = gzip.decompress(content)
        return Response(content, media_type=kind, headers=headers)

    def _since(self, request: Request) -> int:
        """The change that a viewer has seen last; 0 for one that begins."""
        life, _, number = request.query_params.get("since", "").partition(".")
        plain = number.isascii() and number.isdigit() and len(number) < 20
        since = int(number) if life == self._life and plain else 0
        return since if since <= self._studies.last else 0

    async def updates(self, request: Request) -> Response:
        since = self._since(request)
        messages, since = await self._new(since)
        body = b'{"since":"%s.%d","updates":[%s]}' % (
            self._life.encode(),
            since,
            b",".join(messages),
        )
        return Response(body, media_type="application/json", headers={"cache-control": "no-store"})

    async def _new(self, since: int) -> tuple[list[bytes], int]:
        if since == self._studies.last:
            return [], since
        return await asyncio.to_thread(self._studies.updates, since, _MESSAGES)

    async def events(self, request: Request) -> Response:
        async def stream(since: int) -> AsyncIterator[bytes]:
            yield self._event("alive", since, b"{}")
            said = time.monotonic()
            while not self._is_closing():
                messages, since = await self._new(since)
                for message in messages:
                    # Only after the last of them has a viewer seen all up to ``since``.
                    last = message is messages[-1]
                    yield self._event("update", since if last else None, message)
                if not messages and time.monotonic() - said >= ALIVE_S:
                    yield self._event("alive", since, b"{}")
                    said = time.monotonic()
                if not messages:
                    await self._wait(since)

        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(
            stream(self._since(request)), media_type="text/event-stream", headers=headers
        )

    async def _wait(self, since: int) -> None:
        """For news, but not for long: the server may be closing."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5), self._news:
                while self._studies.last == since:
                    await self._news.wait()

    def _event(self, kind: str, since: int | None, data: bytes) -> bytes:
        number = b"" if since is None else b"id: %s.%d\n" % (self._life.encode(), since)
        return b"%sevent: %s\ndata: %s\n\n" % (number, kind.encode(), data)

    async def detail(self, request: Request) -> Response:
        study, number = request.path_params["study"], request.path_params["number"]
        found = await asyncio.to_thread(self._studies.detail, study, number)
        if found is None:
            return Response(
                json.dumps({"error": "there is no such candidate"}),
                404,
                media_type="application/json",
            )
        return Response(found, media_type="application/json", headers={"cache-control": "no-store"})

    async def recipe(self, request: Request) -> Response:
        study, number = request.path_params["study"], request.path_params["number"]
        found = await asyncio.to_thread(self._studies.recipe, study, number)
        if found is None:
            return PlainTextResponse("there is no such complete candidate\n", 404)
        return _download(found.encode(), "application/yaml", f"recipe-{number}.yaml")

    async def design(self, request: Request) -> Response:
        """One document at a time, in a process of its own: it builds the network with torch."""
        study, number = request.path_params["study"], request.path_params["number"]
        folder = await asyncio.to_thread(self._studies.place, study, number)
        if folder is None:
            return PlainTextResponse("there is no such complete candidate\n", 404)
        try:
            async with asyncio.timeout(DESIGN_S), self._designing:
                status, output = await _output("nas.dashboard.design", folder, str(number))
        except TimeoutError:
            return PlainTextResponse(f"not made within {DESIGN_S:.0f} s\n", 503)
        if status:
            return PlainTextResponse(output, 503)
        made = document_page.page(json.loads(output)).encode()
        return _download(made, "text/html", f"design-{number}.html")


def _download(content: bytes, kind: str, name: str) -> Response:
    headers = {"cache-control": "no-store", "content-disposition": f'attachment; filename="{name}"'}
    return Response(content, media_type=kind, headers=headers)


async def _output(module: str, *arguments: str) -> tuple[int, bytes]:
    """The exit status of ``python -m MODULE`` and what it has printed; it ends with its caller."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", module, *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode or 0, output
