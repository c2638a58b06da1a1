"""Parameters that whoever runs the job sets in every call, whatever the agent asks for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from runner.relay.upstream import Upstream, Wrapper
from runner.relay.wire import ModelRequest, UpstreamResponse

# What a call is about is the agent's to say; these are never set from outside.
AGENTS_OWN = frozenset(
    ("model", "messages", "tools", "tool_choice", "functions", "stream", "stream_options", "n")
)


class WithParameters(Wrapper):
    """An upstream whose calls carry `parameters` (temperature, max_tokens, …) in place of the agent's."""

    def __init__(self, inner: Upstream, parameters: Mapping[str, Any]) -> None:
        super().__init__(inner)
        self._parameters = {name: value for name, value in parameters.items() if name not in AGENTS_OWN}

    async def send(self, request: ModelRequest) -> UpstreamResponse:
        payload = {**request.payload, **self._parameters}
        body = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        return await self._inner.send(ModelRequest(body, payload, request.run))
