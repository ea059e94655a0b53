"""The explorer as a server, beside searches that run: ``nas dashboard``.

It only reads, and only what it was given; it answers whoever has its token. The page is that of the
report (``nas.report``), to which it sends what is new.
"""

from __future__ import annotations

import re
import secrets
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nas.dashboard.sources import is_url, sources
from nas.dashboard.studies import Studies
from nas.task import InputError, UsageError

__all__ = ["serve"]

# What an Authorization header (RFC 6750, section 2.1) and a cookie can hold.
_TOKEN = re.compile(r"[\w.~+/=-]{16,}", re.ASCII)


def serve(
    places: Sequence[str | Path],
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    token: str | None = None,
    names: Sequence[str] = (),
    prefix: str = "",
    on_start: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve the studies of runs until Ctrl-C.

    Args:
        places: Folders of runs, or folders that hold some, journals, and PostgreSQL databases by
            their URL; studies that come later are found too.
        host: Address to listen on.
        port: 0 for any that is free.
        token: That every request must bring; default: a random one.
        names: Under which it may be reached too, of a proxy for example.
        prefix: Path before its own, where a proxy does not remove it: "/nas".
        on_start: Is called with the address to open, with the token.

    Raises:
        InputError: A place is not there, or the address is in use.
        UsageError: The token is too short or has other characters, or the prefix is no path.
    """
    import uvicorn

    from nas.dashboard.app import Connection, make_app

    if token is not None and not _TOKEN.fullmatch(token):
        raise UsageError(
            "the token must be 16 or more letters, digits or -._~+/=, which a cookie can hold;"
            " leave it out for a random one"
        )
    if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
        raise UsageError(f"--prefix {prefix!r} is not of the form /nas")
    for place in map(str, places):
        if is_url(place):
            sources(place)  # what is wrong with it is one line
        elif not Path(place).exists():
            raise InputError(f"{place} is not there; give runs, a folder of some, or a storage")
    token = token or secrets.token_urlsafe(24)
    listening = _listen(host, port)
    with listening:
        port = listening.getsockname()[1]
        how: dict[str, Any] = {"host": host, "names": names, "prefix": prefix}
        app = make_app(Studies(places), token, is_closing=lambda: server.should_exit, **how)
        shown = f"[{host}]" if ":" in host else host
        if host in ("0.0.0.0", "::"):
            shown = socket.gethostname()
        on_start(f"http://{shown}:{port}{prefix}/?token={quote(token, safe='')}")
        config = uvicorn.Config(
            app,
            http=Connection,
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            limit_concurrency=256,
            timeout_graceful_shutdown=2,
        )
        server = uvicorn.Server(config)
        server.run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol named, for only then does asyncio send small answers at once (TCP_NODELAY):
    # else each of them waits 40 ms for the other side.
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(128)
    except OSError as error:
        found.close()
        reason = error.strerror or str(error)
        raise InputError(
            f"{host}:{port} cannot be used ({reason}); choose another --port"
        ) from None
    return found
