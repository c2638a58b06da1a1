"""Runs every test with a `transport` over both transports."""

from __future__ import annotations

import pytest
from llm_wire import TRANSPORTS


@pytest.fixture(params=sorted(TRANSPORTS))
def transport(request: pytest.FixtureRequest) -> str:
    return request.param
