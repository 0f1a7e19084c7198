# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The gate of the service: token, queue, security headers, slow readers, and the record of every request."""

import asyncio
from collections.abc import Callable, Iterable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .authentication import Token
from .calls import Call
from .limits import DISCONNECTED, Limits, Refusal
from .logs import log_error

ANALYZE = "/v1/analyze"
OPEN = ("/health/live", "/health/ready", "/docs", "/openapi.json")
"""Paths that need no token: they contain nothing about recordings."""
CHUNK = 1 << 16  # bytes that are sent at once, so that a slow reader holds no more of a response
HEADERS = {
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; "
    b"base-uri 'none'; form-action 'none'",
    b"cross-origin-resource-policy": b"same-origin",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
}
LOCAL_NAMES = (b"localhost", b"127.0.0.1", b"[::1]")


class Gate:
    """An ASGI application in front of the service.

    Without a token the service is reachable from this computer alone. Then other names than its own in the header
    `Host` are refused, so that no page in a browser reaches it under another name (DNS rebinding).

    Args:
        app: the service.
        token: that clients must send; None for none.
        limits: what is accepted.

    Attributes:
        length: number of requests to analyse a recording at the moment.
        observers: called with each such request when it has ended and its response was delivered.
    """

    def __init__(self, app: ASGIApp, token: Token | None, limits: Limits):
        self._app, self._token, self._limits = app, token, limits
        self.length = 0
        self.observers: list[Callable[[Call], object]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] == ANALYZE and scope["method"] == "POST":
            await self._analyse(scope, receive, send)
        else:
            await self._pass(scope, receive, self._secured(send, Call()))

    async def _analyse(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call()
        scope.setdefault("state", {})["call"] = call
        if self.length >= self._limits.queue:
            refusal = Refusal(503, f"{self.length} requests are in the queue, the limit: try again later.")
            await refused(refusal)(scope, receive, self._secured(send, call))
        else:
            self.length += 1
            try:
                await self._pass(scope, receive, self._secured(send, call))
            finally:
                self.length -= 1
        for observe in self.observers:
            observe(call)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if (refusal := self._refusal(scope)) is not None:
            app = refused(refusal)
        try:
            await app(scope, receive, send)
        except Exception as error:  # the response is an error already, or cut
            log_error(error)

    def _refusal(self, scope: Scope) -> Refusal | None:
        headers = dict(scope["headers"])
        if self._token is None:
            name, _, _ = headers.get(b"host", b"localhost").rpartition(b":")
            is_local = {name, headers.get(b"host", b"localhost")} & set(LOCAL_NAMES)
            return None if is_local else Refusal(400, "The header Host is not a name of this computer.")
        if scope["path"] in OPEN or self._token.matches(headers.get(b"authorization", b"")):
            return None
        return Refusal(401, "The header Authorization must be: Bearer TOKEN, with the token of this service.")

    def _secured(self, send: Send, call: Call) -> Send:
        """Sends with security headers, in chunks, and notes the status."""

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                call.status = message["status"]
                given = {name.lower() for name, _ in message["headers"]}
                extra = [(name, value) for name, value in HEADERS.items() if name not in given]
                message = {**message, "headers": [*message["headers"], *extra]}
            try:
                async with asyncio.timeout(self._limits.transfer_seconds):
                    for part in _parts(message):
                        await send(part)
            except TimeoutError:
                call.status = DISCONNECTED
                raise ConnectionError("The client does not read the response.") from None

        return secured


def refused(refusal: Refusal) -> JSONResponse:
    """The response to a request that is refused."""
    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1"}}.get(refusal.status, {})
    closing = {"Connection": "close"} if refusal.status in (401, 408, 413, 503) else {}  # the body is not read
    return JSONResponse({"error": refusal.message}, refusal.status, {**headers, **closing})


def _parts(message: Message) -> Iterable[Message]:
    body = message.get("body", b"")
    if len(body) <= CHUNK:
        return (message,)
    starts = range(0, len(body), CHUNK)
    is_more = message.get("more_body", False)
    return (
        {**message, "body": body[start : start + CHUNK], "more_body": is_more or start + CHUNK < len(body)}
        for start in starts
    )
