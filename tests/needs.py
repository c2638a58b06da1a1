"""What some tests need of the machine, tried as the runner tries it."""

import asyncio

import pytest

from runner.environments.proot import ProotEnvironment
from runner.environments.sandbox import SandboxEnvironment

_no_sandbox = asyncio.run(SandboxEnvironment.unavailable())
_no_proot = asyncio.run(ProotEnvironment.unavailable())

needs_sandbox = pytest.mark.skipif(_no_sandbox is not None, reason=str(_no_sandbox))
needs_proot = pytest.mark.skipif(_no_proot is not None, reason=str(_no_proot))
