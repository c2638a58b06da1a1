"""`make demo` on a clean copy, where neither Docker nor bubblewrap is installed.

Each place is a container of Debian with python3 and make. Packages come from wherever this
machine's pip and apt get theirs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

IMAGE = "capstan-test/first-command"
# bare has as little as Debian's Python brings; venv has the rest of it, and an ordinary user.
DOCKERFILE = """
FROM debian:bookworm-slim AS bare
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends git python3 make >/dev/null
FROM bare AS venv
RUN apt-get install -y -qq --no-install-recommends python3-venv >/dev/null && useradd --create-home user
"""
PASSED = '"resolved": 3, "score": 1.0, "status": "completed", "total": 3}'


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone would have: the files that git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    names = [name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).exists()]
    folder = tmp_path_factory.mktemp("source")
    folder.chmod(0o755)
    tar = subprocess.run(
        ["tar", "-c", "-T", "-"], input="\n".join(names).encode(), cwd=ROOT, check=True, capture_output=True
    )
    subprocess.run(["tar", "-x", "-C", folder], input=tar.stdout, check=True)
    return folder


def image(target: str) -> str:
    command = ["docker", "build", "--quiet", "--network", "host", "--target", target]
    done = subprocess.run(
        [*command, "--tag", f"{IMAGE}:{target}", "-"],
        input=DOCKERFILE,
        capture_output=True,
        text=True,
        env={**os.environ, "DOCKER_BUILDKIT": "0"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return f"{IMAGE}:{target}"


def pip_options() -> list[str]:
    """Give a container what this machine's pip is configured with: variables, files and folders."""
    shown = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    named = re.findall(r"(?<![\w/])/[\w./-]+", shown.replace("file://", " "))
    places = {Path(name) for name in (*named, "/etc/pip.conf") if Path(name).exists()}
    options = [f"--volume={place}:{place}:ro" for place in sorted(places)]
    # A folder in the form of an index has its files beside it.
    options += [f"--volume={p}:{p}:ro" for p in {place.parent / "files" for place in places} if p.is_dir()]
    variables = [name for name in os.environ if name.startswith("PIP_")]
    return [*options, *(f"--env={name}" for name in variables)]


def run(command_line: str, source: Path, target: str, *options: str, user: str = "root") -> list[str]:
    """The lines that a command prints in a copy of the source, in a new container."""
    command = ["docker", "run", "--rm", "--network", "host", f"--volume={source}:/source:ro"]
    script = f"su {user} -c 'cp -r /source ~/capstan && cd ~/capstan && {command_line}' 2>&1"
    done = subprocess.run(
        [*command, *pip_options(), *options, image(target), "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=840,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout.splitlines()


def test_as_root_in_a_container_that_may_not_make_namespaces(source: Path) -> None:
    lines = run("make demo", source, "bare")
    assert lines[:3] == [
        "setup: python3-venv from Debian",
        "setup: .venv from locks/runner.txt",
        "setup: proot from Debian, because neither Docker nor bubblewrap works here",
    ]
    assert re.fullmatch(
        r"environment: proot, which isolates nothing \(Docker: no engine answers at .*docker\.sock; "
        r"bubblewrap: No permissions to .*\)",
        lines[3],
    )
    assert lines[-1].endswith(PASSED)


def test_as_an_ordinary_user_without_bubblewrap(source: Path) -> None:
    # Privileged, so that the kernel lets the user make namespaces, as it does outside a container.
    lines = run("make demo", source, "venv", "--privileged", user="user")
    assert lines[0] == "setup: .venv from locks/runner.txt"
    assert re.fullmatch(r"environment: sandbox \(Docker: no engine answers at .*docker\.sock\)", lines[1])
    assert lines[-1].endswith(PASSED)


def test_programs_that_cannot_be_installed_are_named(source: Path) -> None:
    programs = "busybox rg chromium proot bwrap pkill"
    lines = run("scripts/setup programs", source, "venv", user="user")
    assert lines == [f"setup: not here, so that tests which need them are left out: {programs}"]
