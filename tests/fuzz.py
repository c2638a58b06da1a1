"""How many random cases the long tests try: a tenth by default, all of them in `make fuzz`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings

ALL_CASES = os.environ.get("CAPSTAN_FUZZ") == "all"


def cases(number: int, **options: Any) -> settings:
    """Return the settings of a test that tries `number` cases in `make fuzz`."""
    return settings(max_examples=number if ALL_CASES else max(number // 10, 10), deadline=None, **options)


def fuzz(number: int, **options: Any) -> Callable[[Any], Any]:
    """Let a hypothesis test try `number` cases in `make fuzz`, and mark it for that."""
    return lambda test: pytest.mark.fuzz(cases(number, **options)(test))
