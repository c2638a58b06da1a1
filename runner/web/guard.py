"""Who may speak to the service, and how much: checked before anything reads a request."""

from __future__ import annotations

import base64
import binascii
import secrets
from urllib.parse import urlsplit

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runner.submission.archive import MAX_ZIP_BYTES
from runner.web.errors import ServiceError
from runner.web.listen import is_loopback

OPEN_PATHS = ("/health",)
# A job's description, an agent's ZIP, and the words around both.
MAX_BODY_BYTES = 4 * 2**20
assert MAX_BODY_BYTES > MAX_ZIP_BYTES

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class Guard:
    """Refuses requests of strangers: without the token, from another site's pages, or under a false host.

    A page of another site that a person has open can send requests to 127.0.0.1; a name that its owner makes
    point to 127.0.0.1 lets it read the answers, too. The first shows in its Origin, the second in its Host.
    """

    def __init__(self, app: ASGIApp, *, host: str, token: SecretStr | None = None) -> None:
        """`host` is what the server is bound to; `token` is what every path but /health wants."""
        self._app = app
        self._token = None if token is None else token.get_secret_value().encode()
        self._local = is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._check(scope["method"], scope["path"], headers)
            limited = _Limited(receive, headers)
        except ServiceError as error:
            await error.response()(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            # What reads bodies tells its own story of one that broke off; this is the true one.
            if not limited.exceeded:
                await send(message)
            elif message["type"] == "http.response.start":
                await _too_large().response()(scope, receive, send)

        await self._app(scope, limited, answer)

    def _check(self, method: str, path: str, headers: Headers) -> None:
        if self._token is not None:
            if path not in OPEN_PATHS and not self._knows_token(headers.get("authorization", "")):
                raise ServiceError(
                    401,
                    "token_needed",
                    "this service wants its token: Authorization: Bearer <token>",
                    headers={
                        "WWW-Authenticate": 'Basic realm="Capstan: any name, and the token as password"'
                    },
                )
        elif self._local and not is_loopback(_host_name(headers.get("host", ""))):
            raise ServiceError(
                403,
                "host_refused",
                "this server has no token, so it answers on 127.0.0.1 and localhost alone",
            )
        if method not in _SAFE_METHODS and _from_elsewhere(headers):
            raise ServiceError(403, "origin_refused", "pages of other sites may not send requests here")

    def _knows_token(self, authorization: str) -> bool:
        assert self._token is not None
        scheme, _, value = authorization.partition(" ")
        given = value.strip().encode("utf-8", "surrogateescape")
        if scheme.lower() == "basic":  # how a browser asks a person
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        elif scheme.lower() != "bearer":
            return False
        return secrets.compare_digest(given, self._token)


class _Limited:
    """Ends a body that is longer than it may be, whatever its header claims."""

    def __init__(self, receive: Receive, headers: Headers) -> None:
        self._receive = receive
        self._left = MAX_BODY_BYTES
        self.exceeded = False
        claimed = headers.get("content-length", "")
        if claimed.isdigit() and int(claimed) > MAX_BODY_BYTES:
            raise _too_large()

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                self.exceeded = True
                raise _too_large()
        return message


def _too_large() -> ServiceError:
    return ServiceError(413, "body_too_large", f"a request may have {MAX_BODY_BYTES:,} bytes at most")


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _from_elsewhere(headers: Headers) -> bool:
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site") in ("cross-site", "same-site")
    return urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
