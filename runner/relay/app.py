"""The relay's HTTP side: who may send what, and the passage of an answer chunk by chunk."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from runner.relay.accounts import Accounts, RunBudget
from runner.relay.meter import CallUsage, UsageMeter
from runner.relay.prices import PriceTable
from runner.relay.tokens import TokenCounts
from runner.relay.upstream import Upstream
from runner.relay.wire import ApiError, ModelRequest, StreamDropped, UpstreamResponse, parse_payload

_log = logging.getLogger(__name__)

PATHS = ("/chat/completions", "/v1/chat/completions")
MODEL_HEADER = "x-capstan-model"
# Characters of JSON that make a token, at the least: the reservation and the cut-off err on the safe side.
_BYTES_PER_TOKEN = 3


class _ClientGone(Exception):
    """The agent hung up."""


class _LimitReached(Exception):
    """The cost limit was reached while an answer was streaming."""


@dataclass(frozen=True, slots=True)
class RelayRules:
    """What the relay lets through."""

    allowed_models: Sequence[str] | None
    max_request_bytes: int


class RelayApp:
    """An ASGI application. One instance serves the socket and the port."""

    def __init__(
        self,
        upstream: Upstream,
        accounts: Accounts,
        rules: RelayRules,
        prices: PriceTable,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._upstream = upstream
        self._accounts = accounts
        self._rules = rules
        self._prices = prices
        self._now = now
        self._counts = TokenCounts()
        self._label = model_label(upstream)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        answer = _Answer(send, self._label)
        budget: RunBudget | None = None
        try:
            _check_path(scope)
            headers = Headers(scope=scope)
            budget = self._authenticate(headers)
            with budget.slot():
                body = await _read_body(headers, receive, self._rules.max_request_bytes)
                request = ModelRequest(body, parse_payload(body), budget.account.id)
                self._check_model(request)
                await _while_connected(receive, self._serve(request, budget, answer))
        except ApiError as error:
            if budget is not None:
                budget.refused()
            await answer.error(error)
        except _ClientGone:
            pass

    def _authenticate(self, headers: Headers) -> RunBudget:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        budget = self._accounts.find(token.strip()) if scheme.lower() == "bearer" else None
        if budget is None:
            shown = f"****{token[-4:]}" if len(token) >= 12 else "****"
            raise ApiError(401, f"Authentication Fails, Your api key: {shown} is invalid")
        return budget

    def _check_model(self, request: ModelRequest) -> None:
        allowed = self._rules.allowed_models
        if allowed is not None and request.model not in allowed:
            raise ApiError(
                403,
                f"the relay passes calls for {', '.join(allowed)} only, not for {request.model[:80]!r}",
                code="relay_model",
            )

    async def _serve(self, request: ModelRequest, budget: RunBudget, answer: _Answer) -> None:
        """Sends one admitted call on, passes the answer, and books it whatever happens."""
        number = await budget.reserve(self._worst_cost(request))
        meter = UsageMeter(stream=request.stream)
        response: UpstreamResponse | None = None
        failure: ApiError | None = None
        complete = False
        try:
            response = await self._upstream.send(request)
            await self._pass(request, response, meter, budget, answer)
            complete = True
        except StreamDropped:
            return  # without the last chunk: the server cuts the connection
        except _LimitReached:
            failure = budget.spent_error()
        except ApiError as error:
            failure = error
        except Exception as error:
            _log.exception("call of run %s failed in the relay", budget.account.name)
            failure = ApiError(500, f"the relay failed: {type(error).__name__}", code="relay_error")
        finally:
            # Booked before the answer ends, so that who has read all of it finds it in the books; and booked
            # also when the agent hung up, which cancels this task: what was sent is paid for.
            await asyncio.shield(self._settle(request, response, meter, budget, number, complete))
        if failure is not None:
            await answer.error(failure)
        else:
            await answer.end()

    async def _pass(
        self,
        request: ModelRequest,
        response: UpstreamResponse,
        meter: UsageMeter,
        budget: RunBudget,
        answer: _Answer,
    ) -> None:
        await answer.start(response.status, response.headers)
        prompt_floor = self._floor(request, len(request.body) // (2 * _BYTES_PER_TOKEN), 0)
        event_floor = self._floor(request, 0, 1)
        limited = budget.account.cost_limit_usd is not None and request.stream
        async for chunk in response.body:
            await answer.chunk(chunk)
            meter.feed(chunk)
            if limited and budget.would_end(prompt_floor + meter.events * event_floor):
                raise _LimitReached

    async def _settle(
        self,
        request: ModelRequest,
        response: UpstreamResponse | None,
        meter: UsageMeter,
        budget: RunBudget,
        number: int,
        complete: bool,
    ) -> None:
        usage: CallUsage | None = None
        try:
            if response is not None:
                await response.aclose()
                if response.status == 200:
                    usage = meter.reported()
                    if usage is None:
                        usage = await asyncio.to_thread(meter.estimate, request.payload, self._counts)
        finally:
            answered = response is not None and response.status == 200
            model = (meter.model or request.model) if answered else None
            cost = self._cost(model or request.model, usage) if usage else 0.0
            # Clients hang up at [DONE], often before the upstream's own end arrives.
            failed = not (answered and (complete or meter.done))
            await budget.settle(number, usage, cost, model, failed=failed)

    def _cost(self, model: str, usage: CallUsage) -> float:
        return self._prices.cost(
            model,
            hit=usage.cache_hit_tokens,
            miss=usage.cache_miss_tokens,
            output=usage.completion_tokens,
            at=self._now(),
        )

    def _floor(self, request: ModelRequest, hit: int, output: int) -> float:
        """What a call has cost at the least."""
        return self._prices.cost(request.model, hit=hit, miss=0, output=output, at=self._now())

    def _worst_cost(self, request: ModelRequest) -> float:
        """What a call may cost: the whole prompt missed and the output used up."""
        card = self._prices.card(request.model)
        asked = request.payload.get("max_tokens")
        output = asked if isinstance(asked, int) and asked > 0 else card.max_output_tokens
        prompt = len(request.body) // _BYTES_PER_TOKEN
        return self._prices.cost(request.model, hit=0, miss=prompt, output=output, at=self._now())


class _Answer:
    """The way back to the agent."""

    def __init__(self, send: Send, label: str | None) -> None:
        self._send = send
        self._label = label
        self._started = False

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        self._started = True
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        if self._label is not None:
            pairs.append((MODEL_HEADER.encode(), self._label.encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def chunk(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        await self._send({"type": "http.response.body", "body": data})

    async def error(self, error: ApiError) -> None:
        """The whole answer is a refusal; in the middle of a stream, its last event is."""
        body = error.body()
        if self._started:
            await self.end(b"data: " + body + b"\n\n")
            return
        await self.start(error.status, {**error.headers(), "content-length": str(len(body))})
        await self.end(body)


def model_label(upstream: Upstream) -> str | None:
    """What the header `x-capstan-model` says: nothing for a real model."""
    if upstream.scripted:
        return "scripted"
    return "replayed" if upstream.mode == "replay" else None


def _check_path(scope: Scope) -> None:
    if scope["path"] in PATHS and scope["method"] == "POST":
        return
    raise ApiError(
        403,
        f"the relay passes POST {PATHS[0]} only, not {scope['method']} {scope['path'][:80]}",
        code="relay_path",
    )


async def _read_body(headers: Headers, receive: Receive, limit: int) -> bytes:
    too_large = ApiError(413, f"the relay takes requests of at most {limit} bytes", code="relay_size")
    declared = headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise too_large
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise too_large
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


async def _while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Runs `work` until it ends or the agent hangs up, which cancels it. Raises _ClientGone then."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _ClientGone
        task.result()
    finally:
        for each in (watch, task):
            if not each.done():
                each.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(task, watch, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    message: Message = {"type": ""}
    while message["type"] != "http.disconnect":
        message = await receive()
