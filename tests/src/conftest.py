"""Workspaces of these tests share /tmp: each worker of pytest-xdist has its own names."""

from __future__ import annotations

import os

import pytest

from src.tools.workspace import rpc


@pytest.fixture(autouse=True)
def scratch_name(monkeypatch: pytest.MonkeyPatch) -> None:
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        monkeypatch.setattr(rpc, "SCRATCH_NAME", f"{rpc.SCRATCH_NAME}-{worker}-")
