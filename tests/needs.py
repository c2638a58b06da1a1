"""What tests need of the machine. A test that lacks it is left out with the reason.

With CAPSTAN_TESTS=all, as CI runs them, it fails instead.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest

from runner.environments import EnvironmentKind
from runner.environments.docker.engine import engine_unreachable
from runner.environments.proot import ProotEnvironment
from runner.environments.sandbox import SandboxEnvironment

BASE_IMAGE = "debian:bookworm-slim"
_HARBOR = Path(__file__).resolve().parents[1] / ".venv-harbor" / "bin" / "python"


def leave_out(reason: str) -> NoReturn:
    """Skip this test, or fail it where every test must run."""
    if os.environ.get("CAPSTAN_TESTS") == "all":
        pytest.fail(f"CAPSTAN_TESTS=all, but {reason}", pytrace=False)
    pytest.skip(reason)


def program(name: str) -> str:
    """Return the path of a program. busybox must be static, for it runs alone in its container."""
    path = shutil.which(name)
    if path is None:
        leave_out(f"{name} is not installed")
    if name == "busybox" and subprocess.run(["ldd", path], capture_output=True).returncode == 0:
        leave_out("busybox is not static (Debian's package busybox-static is)")
    return path


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount a disk of this size on an empty folder. Only root can."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "none", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode != 0:
        leave_out(f"no disk can be mounted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@cache
def missing(marker: str) -> str | None:
    """Return why tests with this marker cannot run here, or None."""
    if marker == "docker":
        return asyncio.run(engine_unreachable()) or _no_base_image()
    if marker == "sandbox":
        return asyncio.run(SandboxEnvironment.unavailable())
    if marker == "proot":
        return asyncio.run(ProotEnvironment.unavailable())
    if marker == "harbor":
        return None if _HARBOR.exists() else "no .venv-harbor: Harbor needs Python 3.12 or 3.13"
    if marker == "ray":
        return None if find_spec("ray") else "Ray is not installed (scripts/setup ray)"
    return None


def _no_base_image() -> str | None:
    for command in (["image", "inspect"], ["pull", "--quiet"]):
        if subprocess.run(["docker", *command, BASE_IMAGE], capture_output=True).returncode == 0:
            return None
    return f"the engine has no {BASE_IMAGE} and cannot pull it"


# Where tests run their tasks when any environment will do.
TASK_ENVIRONMENT: EnvironmentKind = "proot" if missing("sandbox") and not missing("proot") else "sandbox"
