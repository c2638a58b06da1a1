"""Leaves out the tests that cannot run on this machine, each with the reason."""

from __future__ import annotations

import pytest
from hypothesis import settings

from runner.cli.app import use_default_signals
from tests.needs import leave_out, missing

# No test is wrong because the machine was busy.
settings.register_profile("capstan", deadline=None)
settings.load_profile("capstan")


def pytest_configure() -> None:
    use_default_signals()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers():
        if reason := missing(marker.name):
            leave_out(reason)
