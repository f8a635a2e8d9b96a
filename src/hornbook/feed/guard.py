"""What every request and connection meets before a route does.

`Guard` (ASGI) refuses a request with another protocol, without the token, for another log, or with
a large body, and puts the protocol's headers on every answer. `GuardedProtocol` (uvicorn's h11
protocol) ends connections that are slow, which uvicorn by itself lets stay: a request has to arrive
whole within `request_seconds`, each piece of an answer to be taken within `stall_seconds`. Above
the number of connections it answers 503.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import h11
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from hornbook.feed.auth import is_allowed
from hornbook.feed.metrics import Metrics
from hornbook.tokens.feed_protocol import LOG_HEADER, PROTOCOL, PROTOCOL_HEADER

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

MAX_BODY = 64 * 1024
"""Bytes of a request's body; those of the protocol have a few hundred."""

OPEN_PATHS = {"/", "/healthz"}
"""Paths that need no token: they show no data (the page asks for the token)."""


class Refusal(HTTPException):
    """A request that is answered with an error: JSON `{"error", "hint", ...}`."""

    def __init__(
        self,
        status: int,
        error: str,
        hint: str = "",
        *,
        headers: dict[str, str] | None = None,
        **more: Any,
    ):
        super().__init__(status, error, headers)
        self._content = {"error": error, **({"hint": hint} if hint else {}), **more}

    def response(self) -> Response:
        """The answer."""
        return JSONResponse(self._content, self.status_code, self.headers)


def later(error: str, seconds: int = 1, hint: str = "") -> Refusal:
    """503 with Retry-After: nothing is wrong with the request, only the moment."""
    return Refusal(503, error, hint, headers={"Retry-After": str(seconds)})


class Guard:
    """The application, behind the checks that all its routes share."""

    def __init__(self, application: Application, log: str, token: str | None, metrics: Metrics):
        self._application, self._log = application, log
        self._token, self._metrics = token, metrics
        self._common = [
            (PROTOCOL_HEADER.lower().encode(), str(PROTOCOL).encode()),
            (LOG_HEADER.lower().encode(), log.encode()),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
        ]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """ASGI; uvicorn runs it without lifespan, and without WebSockets."""
        assert scope["type"] == "http"
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *self._common]
            await send(message)

        try:
            self._check(scope["path"], dict(scope["headers"]))
            await self._application(scope, _bounded(receive), answer)
        except Refusal as refusal:
            await refusal.response()(scope, receive, answer)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests[route, status] += 1

    def _check(self, path: str, headers: dict[bytes, bytes]) -> None:
        asked = headers.get(PROTOCOL_HEADER.lower().encode())
        if asked is not None and asked.strip() != str(PROTOCOL).encode():
            raise Refusal(
                400,
                f"this feed speaks protocol {PROTOCOL}",
                "Use the same release of hornbook at both ends",
                supported=[PROTOCOL],
            )
        if self._token is not None and path not in OPEN_PATHS:
            given = headers.get(b"authorization")
            if not is_allowed(given, self._token):
                raise Refusal(
                    401,
                    "this feed needs its token" if given is None else "this is not the token",
                    "Authorization: Bearer TOKEN; hornbook takes it from HORNBOOK_FEED_TOKEN",
                    headers={"WWW-Authenticate": "Bearer"},
                )
        log = headers.get(LOG_HEADER.lower().encode())
        if log is not None and log.strip() != self._log.encode():
            raise Refusal(
                409,
                "this is another feed's log",
                "Numbers of one log mean nothing in another: was the address taken over?",
                log=self._log,
            )


def _bounded(receive: Receive) -> Receive:
    """`receive`, which raises `Refusal` 413 beyond `MAX_BODY`; the connection ends then, since the
    rest of the body is not read."""
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > MAX_BODY:
            close = {"Connection": "close"}
            raise Refusal(413, f"a body has at most {MAX_BODY} bytes", headers=close)
        return message

    return counted


@dataclass(frozen=True)
class ConnectionLimits:
    """What one connection may cost."""

    connections: int = 256
    request_seconds: float = 10.0
    """From the first byte of a request (or the connection's beginning) to its last one."""
    stall_seconds: float = 30.0
    """For a piece of 64 KiB to leave, else the connection is cut: 2 kB/s at least."""


class GuardedProtocol(H11Protocol):
    """An HTTP/1.1 connection that cannot be held open by being slow."""

    limits: ConnectionLimits

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected."""
        self._request = _Deadline(self.loop, self.limits.request_seconds, transport.abort)
        self._stall = _Deadline(self.loop, self.limits.stall_seconds, transport.abort)
        super().connection_made(transport)
        # asyncio switches Nagle's delays (40 ms an answer) off only for sockets that name TCP.
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Writing pauses as soon as the system's buffer is full and resumes when all of ours has
        # left: so the timer below measures a piece, and no memory is held beyond one.
        transport.set_write_buffer_limits(high=0)
        if len(self.connections) > 2 * self.limits.connections:
            transport.abort()  # answering would cost descriptors, of which there are about 1,000
        elif len(self.connections) > self.limits.connections:
            self.app = _too_many
        self._request.start()

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        super().data_received(data)
        state = self.conn.their_state
        unfinished = state is h11.SEND_BODY or (state is h11.IDLE and self.conn.trailing_data[0])
        if unfinished:
            self._request.start()
        else:
            self._request.cancel()

    def pause_writing(self) -> None:
        """The client does not take what is sent as fast as it is."""
        super().pause_writing()
        self._stall.start()

    def resume_writing(self) -> None:
        """All that was written has left."""
        super().resume_writing()
        self._stall.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended, from either side."""
        self._request.cancel()
        self._stall.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Bytes that are no HTTP: says so, where an answer is still possible."""
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:  # another answer has begun
            self.transport.abort()


def guarded(limits: ConnectionLimits) -> type[GuardedProtocol]:
    """The protocol with these limits, as uvicorn's `http=` wants it: a class."""
    return type("GuardedProtocol", (GuardedProtocol,), {"limits": limits})


class _Deadline:
    """Calls `late` unless it is cancelled in time; started twice, the first start counts."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, late: Callable[[], None]):
        self._loop, self._seconds, self._late = loop, seconds, late
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._late)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def _too_many(scope: Message, receive: Receive, send: Send) -> None:
    headers = {"Retry-After": "5", "Connection": "close"}
    await Refusal(503, "too many connections", headers=headers).response()(scope, receive, send)
