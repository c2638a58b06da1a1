"""The sources of model responses: the live API here, cassettes and scripts elsewhere."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from functools import cache

import httpx

from runner.json_values import JsonObject
from runner.relay.wire import (
    REPLAY_HEADER,
    UNREACHED,
    ApiError,
    ModelRequest,
    StreamDropped,
    UpstreamResponse,
    whole_response,
)

# Response headers that reach the agent. The others belong to the connection (cookies, hop-by-hop).
_PASSED_HEADERS = ("content-type", "cache-control", "retry-after", "x-ds-trace-id", REPLAY_HEADER)
# Fields that define a call. They are the agent's and cannot be set from outside.
_AGENT_FIELDS = frozenset(
    ("model", "messages", "tools", "tool_choice", "functions", "stream", "stream_options", "n")
)


class Upstream(ABC):
    """One source of responses."""

    mode: str
    """`live`, `record`, `replay` or `script`."""

    @property
    def scripted(self) -> bool:
        """Whether the responses come from a script, directly or in a recording of one."""
        return False

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values that must not appear in a cassette, a log or an error."""
        return ()

    @abstractmethod
    def describe(self) -> str:
        """Return one line that tells a person where responses come from."""

    @abstractmethod
    async def send(self, request: ModelRequest) -> UpstreamResponse:
        """Make the call. Raises ApiError if there is no response to pass on."""

    def forget(self, run: str) -> None:  # noqa: B027 - most upstreams keep nothing per run
        """Drop the state of a run that has ended."""

    async def aclose(self) -> None:  # noqa: B027
        """Release connections and files."""


class UpstreamWrapper(Upstream):
    """Passes calls on to another upstream. Subclasses override what they change."""

    def __init__(self, inner: Upstream) -> None:
        self._inner = inner
        self.mode = inner.mode

    @property
    def scripted(self) -> bool:
        return self._inner.scripted

    @property
    def secrets(self) -> tuple[str, ...]:
        return self._inner.secrets

    def describe(self) -> str:
        return self._inner.describe()

    def forget(self, run: str) -> None:
        self._inner.forget(run)

    async def aclose(self) -> None:
        await self._inner.aclose()


class WithParameters(UpstreamWrapper):
    """Sets parameters (temperature, max_tokens, …) in every call, whatever the agent asks for."""

    def __init__(self, inner: Upstream, parameters: JsonObject) -> None:
        super().__init__(inner)
        self._parameters = {name: value for name, value in parameters.items() if name not in _AGENT_FIELDS}

    async def send(self, request: ModelRequest) -> UpstreamResponse:
        payload = {**request.payload, **self._parameters}
        body = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        return await self._inner.send(ModelRequest(body, payload, request.run))


class _RunClient:
    """The connections of one run to the API. They close once it is forgotten and has no call."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.http = client
        self._calls = 0
        self._forgotten = False

    def begin(self) -> None:
        self._calls += 1

    async def end(self) -> None:
        self._calls -= 1
        if self._forgotten and not self._calls:
            await self.http.aclose()

    async def forget(self) -> None:
        self._forgotten = True
        if not self._calls:
            await self.http.aclose()


class LiveUpstream(Upstream):
    """The real API. Only this class knows the real key.

    Each run has connections of its own. A pool for all of them would look at every connection at
    each call, which hundreds of agents at once make the most of its work.

    Args:
        base_url: The root of the API.
        timeout_sec: How long to wait for the next bytes. The API closes a request that was queued
            for ten minutes, and the agent's own timeout ends a silent stream earlier.
        make_transport: Makes what a run's calls go over. Default: httpx's own.
    """

    mode = "live"

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        timeout_sec: float = 660.0,
        make_transport: Callable[[], httpx.AsyncBaseTransport] | None = None,
    ) -> None:
        self._url = base_url.rstrip("/") + "/chat/completions"
        self._key = api_key
        self._timeout = httpx.Timeout(timeout_sec, connect=15.0)
        self._make_transport = make_transport
        self._clients: dict[str, _RunClient] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def secrets(self) -> tuple[str, ...]:
        return (self._key,)

    def describe(self) -> str:
        return f"live model at {httpx.URL(self._url).host}"

    def key_for(self, request: ModelRequest) -> str:
        """Return the key to send this call with."""
        return self._key

    async def send(self, request: ModelRequest) -> UpstreamResponse:
        key = self.key_for(request)
        headers = {
            "authorization": f"Bearer {key}",
            "content-type": "application/json",
            "accept": "text/event-stream" if request.stream else "application/json",
            "accept-encoding": "identity",  # the meter reads the bytes
        }
        client = self._client_of(request.run)
        client.begin()
        try:
            response = await self._respond(client.http, request, headers)
            passed = {name: response.headers[name] for name in _PASSED_HEADERS if name in response.headers}
            if response.status_code == 200:
                return UpstreamResponse(response.status_code, passed, _raw_body(response, client))
            failed = await self._error_response(response, passed, key)
        except BaseException:
            await client.end()
            raise
        await client.end()
        return failed

    async def _respond(
        self, http: httpx.AsyncClient, request: ModelRequest, headers: dict[str, str]
    ) -> httpx.Response:
        """Return the response, whose body is still to be read. Raises ApiError."""
        try:
            outgoing = http.build_request("POST", self._url, content=request.body, headers=headers)
            return await http.send(outgoing, stream=True)
        except (httpx.ReadTimeout, httpx.WriteTimeout) as error:
            raise ApiError(
                504, f"the model did not answer in time: {type(error).__name__}", code="upstream"
            ) from None
        except httpx.HTTPError as error:
            raise ApiError(502, f"no connection to the model: {_cause(error)}", code=UNREACHED) from None

    def _client_of(self, run: str) -> _RunClient:
        if run not in self._clients:
            transport = self._make_transport() if self._make_transport else None
            self._clients[run] = _RunClient(
                httpx.AsyncClient(
                    timeout=self._timeout,
                    limits=httpx.Limits(max_connections=None, keepalive_expiry=30.0),
                    follow_redirects=False,
                    transport=transport,
                    verify=tls_context(),
                )
            )
        return self._clients[run]

    def forget(self, run: str) -> None:
        if (client := self._clients.pop(run, None)) is not None:
            closing = asyncio.get_running_loop().create_task(client.forget())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def _error_response(
        self, response: httpx.Response, headers: dict[str, str], key: str
    ) -> UpstreamResponse:
        try:
            body = await response.aread()
        except httpx.HTTPError:
            body = b""
        finally:
            await response.aclose()
        return whole_response(response.status_code, headers, body.replace(key.encode(), b"***"))

    async def aclose(self) -> None:
        for run in list(self._clients):
            self.forget(run)
        await asyncio.gather(*self._closing)


@cache
def tls_context() -> ssl.SSLContext:
    """Return what connections verify certificates with. To read those takes long."""
    return httpx.create_ssl_context()


def _cause(error: BaseException) -> str:
    """Return why a connection failed, without the address, which the agent does not know."""
    name = type(error).__name__
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    if isinstance(error, socket.gaierror):
        return "the host's name cannot be resolved"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or name}"
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else name


async def _raw_body(response: httpx.Response, client: _RunClient) -> AsyncGenerator[bytes]:
    try:
        async for chunk in response.aiter_raw():
            yield chunk
    except httpx.HTTPError as error:
        raise StreamDropped(type(error).__name__) from None
    finally:
        await response.aclose()
        await client.end()
