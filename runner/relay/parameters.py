"""Parameters that whoever runs the job sets in every call, whatever the agent asks for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from runner.relay.upstream import Upstream
from runner.relay.wire import ModelRequest, UpstreamResponse

# What a call is about is the agent's to say; these are never set from outside.
AGENTS_OWN = frozenset(
    ("model", "messages", "tools", "tool_choice", "functions", "stream", "stream_options", "n")
)


class WithParameters(Upstream):
    """An upstream whose calls carry `parameters` (temperature, max_tokens, …) in place of the agent's."""

    def __init__(self, upstream: Upstream, parameters: Mapping[str, Any]) -> None:
        self._upstream = upstream
        self._parameters = {name: value for name, value in parameters.items() if name not in AGENTS_OWN}
        self.mode = upstream.mode

    @property
    def scripted(self) -> bool:
        return self._upstream.scripted

    @property
    def secrets(self) -> tuple[str, ...]:
        return self._upstream.secrets

    def describe(self) -> str:
        return self._upstream.describe()

    async def send(self, request: ModelRequest) -> UpstreamResponse:
        payload = {**request.payload, **self._parameters}
        body = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        return await self._upstream.send(ModelRequest(body, payload, request.run))

    def forget(self, run: str) -> None:
        self._upstream.forget(run)

    async def aclose(self) -> None:
        await self._upstream.aclose()
