"""Where the relay sends a call: the live API, a cassette, or a script. All behind one small interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator

import httpx

from runner.relay.wire import ApiError, ModelRequest, StreamDropped, UpstreamResponse, whole_response

# What of an answer's headers reaches the agent; the rest (cookies, hop-by-hop ones) is the connection's own.
_PASSED_HEADERS = ("content-type", "cache-control", "retry-after", "x-ds-trace-id")


class Upstream(ABC):
    """One source of answers."""

    mode: str
    """live, record, replay or script."""

    @property
    def scripted(self) -> bool:
        """Whether a script made the answers, directly or when they were recorded."""
        return False

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must appear in no cassette, log or error."""
        return ()

    @abstractmethod
    def describe(self) -> str:
        """One line for people: what answers here."""

    @abstractmethod
    async def send(self, request: ModelRequest) -> UpstreamResponse:
        """Makes the call. Raises ApiError where there is no answer to pass on."""

    def forget(self, run: str) -> None:  # noqa: B027 - most upstreams keep nothing per run
        """Drops what was kept for a run that has ended."""

    async def aclose(self) -> None:  # noqa: B027
        """Frees connections and files."""


class Wrapper(Upstream):
    """Another upstream whose calls have something done to them; all else is the inner one's."""

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


class LiveUpstream(Upstream):
    """The real API. It alone knows the real key, and puts it in."""

    mode = "live"

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        timeout_sec: float = 660.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        # The API closes a queued request after ten minutes; the agent's own watchdog ends a silence earlier.
        self._url = base_url.rstrip("/") + "/chat/completions"
        self._key = api_key
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(timeout_sec, connect=15.0),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=30.0),
            follow_redirects=False,
            transport=transport,
        )

    @property
    def secrets(self) -> tuple[str, ...]:
        return (self._key,)

    def describe(self) -> str:
        return f"live model at {httpx.URL(self._url).host}"

    def key_for(self, request: ModelRequest) -> str:
        """The key that this call goes out with."""
        return self._key

    async def send(self, request: ModelRequest) -> UpstreamResponse:
        key = self.key_for(request)
        headers = {
            "authorization": f"Bearer {key}",
            "content-type": "application/json",
            "accept": "text/event-stream" if request.stream else "application/json",
            "accept-encoding": "identity",  # bytes pass as they are, and the meter reads them
        }
        outgoing = self._client.build_request("POST", self._url, content=request.body, headers=headers)
        try:
            response = await self._client.send(outgoing, stream=True)
        except httpx.TimeoutException as error:
            raise ApiError(
                504, f"the model did not answer in time: {type(error).__name__}", code="upstream"
            ) from None
        except httpx.HTTPError as error:
            raise ApiError(
                502, f"no connection to the model: {type(error).__name__}", code="upstream"
            ) from None
        passed = {name: response.headers[name] for name in _PASSED_HEADERS if name in response.headers}
        if response.status_code != 200:
            return await self._refusal(response, passed, key)
        return UpstreamResponse(response.status_code, passed, _raw_body(response))

    async def _refusal(self, response: httpx.Response, headers: dict[str, str], key: str) -> UpstreamResponse:
        try:
            body = await response.aread()
        except httpx.HTTPError:
            body = b""
        finally:
            await response.aclose()
        return whole_response(response.status_code, headers, body.replace(key.encode(), b"***"))

    async def aclose(self) -> None:
        await self._client.aclose()


async def _raw_body(response: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.aiter_raw():
            yield chunk
    except httpx.HTTPError as error:
        raise StreamDropped(type(error).__name__) from None
    finally:
        await response.aclose()
