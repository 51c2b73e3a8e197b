"""What stands before the page: whose requests it answers, which ones, how large they may be, and how slow."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Callable, Collection
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATIENCE = 30.0
"""Seconds in which a request has to begin, and in which its body may be as slow as it likes."""

LEAST_RATE = 10_000
"""Bytes a second that have to come after that, on average."""

MOST_BYTES = 1_000_000
"""Of the body of a request that is not a song."""

_ROUTES = re.compile(
    r"/|/(assets|static|svelte)/.+|/(config|login|logout)/?|/(theme\.css|robots\.txt|favicon\.ico|manifest\.json)"
    r"|/gradio_api/(app_id|info|login_check|queue/join|queue/data|queue/status|startup-events|token|user)/?"
    r"|/gradio_api/(cancel|heartbeat/[^/]+|reset|run/[^/]+|theme\.css)/?"
)
"""Routes of gradio's that the page needs. Others take, write or fetch files, or do what nobody asked for."""


class Guard:
    """ASGI middleware that refuses what the page does not need.

    A browser sends requests for any page that is open in it. They are refused if they come from another
    page (by ``Origin``), or under a name that somebody else may have pointed at this machine (by ``Host``).

    Args:
        app: what is guarded.
        songs: the address of the page's own routes.
        names: by which people reach the page, besides addresses and ``localhost``; None if it is for
            everybody.
        patience: seconds; see `PATIENCE`.
    """

    def __init__(
        self, app: ASGIApp, songs: str, names: Collection[str] | None = (), patience: float = PATIENCE
    ) -> None:
        self.app = app
        self.songs = f"/{songs}"
        self.names = None if names is None else {name.lower() for name in names}
        self.patience = patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif reason := self._reason(scope):
            await _refuse(403, reason, scope, receive, send)
        elif not self._is_open(scope["path"].removeprefix(scope.get("root_path", ""))):
            sentence = "Nothing is here. If the program was started anew, reload the page."
            await _refuse(404, sentence, scope, receive, send)
        else:
            await self._answer(scope, receive, send)

    def _reason(self, scope: Scope) -> str:
        """Why somebody gets no answer at all; empty if they do."""
        from starlette.datastructures import Headers

        if self.names is None:
            return ""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_known(name := _name(host)):
            start = f"svs-unet serve --name {name}"
            return f"This page is not served under the name {name!r}. Start it with: {start}"
        # Which a script can only send to another page after asking, and is refused by the line above.
        ours = {host.lower(), headers.get("x-forwarded-host", host).lower()}
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() not in ours:
            return "The page answers to itself alone, and not to other pages."
        return ""

    def _is_known(self, name: str) -> bool:
        if name in (self.names or ()) or name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            ip_address(name)  # which nobody can point elsewhere
        except ValueError:
            return False
        return True

    def _is_open(self, path: str) -> bool:
        return path == self.songs or path.startswith(f"{self.songs}/") or bool(_ROUTES.fullmatch(path))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; end it if its body is too large or too slow."""
        most = float("inf") if scope["path"].endswith(self.songs) else MOST_BYTES
        start, received, whole = time.monotonic(), 0, False
        refused: tuple[int, str] | None = None

        async def watched() -> Message:
            nonlocal received, whole, refused
            if whole:
                return await receive()
            left = start + self.patience + received / LEAST_RATE - time.monotonic()
            try:
                message = await asyncio.wait_for(receive(), max(left, 0))
            except TimeoutError:
                refused = 408, "The upload was too slow and was stopped."
                return {"type": "http.disconnect"}
            received += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if received > most:
                refused = 413, f"This takes at most {MOST_BYTES} bytes."
                return {"type": "http.disconnect"}
            return message

        async def unless_refused(message: Message) -> None:
            if refused is None:
                await send(message)

        try:
            await self.app(scope, watched, unless_refused)
        except Exception:
            if refused is None:
                raise
        if refused is not None:
            await _refuse(*refused, scope, receive, send)


async def _refuse(status: int, sentence: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with a sentence, and close the connection."""
    from starlette.responses import JSONResponse

    answer = JSONResponse({"error": sentence}, status, {"connection": "close"})
    await answer(scope, receive, send)


def _name(host: str) -> str:
    """The name or address in a ``Host`` header, without the port."""
    bracketed = re.match(r"\[([^]]*)\]", host)
    return (bracketed[1] if bracketed else host.partition(":")[0]).lower().rstrip(".")


def own_names(host: str) -> set[str]:
    """By which names a page that listens at an address may be reached."""
    if _name(host) in ("127.0.0.1", "::1", "localhost", ""):
        return set()
    machine = socket.gethostname().lower()
    return {_name(host), machine, f"{machine.partition('.')[0]}.local"}


async def close_silent(server: Callable[[], Any], patience: float = PATIENCE) -> None:
    """Close connections on which no request comes, for as long as this runs.

    uvicorn (0.54) waits for the rest of a request's first lines without end.

    Args:
        server: gives the ``uvicorn.Server``, or None while there is none.
    """
    waiting: dict[Any, Any] = {}
    while True:
        await asyncio.sleep(patience)
        there = {} if (running := server()) is None else running.server_state.connections
        cycles = {connection: getattr(connection, "cycle", None) for connection in tuple(there)}
        idle = {at: cycle for at, cycle in cycles.items() if cycle is None or cycle.response_complete}
        for connection, cycle in idle.items():
            if connection in waiting and waiting[connection] is cycle:
                connection.transport.close()
        waiting = idle
