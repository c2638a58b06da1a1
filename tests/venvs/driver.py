"""A driver without dependencies: runs `agent:Agent` of a folder in a local environment.

Usage: python driver.py ROOT WORK, with the four variables set. It prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace


class Environment:
    """Runs the own-runner's exec on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def exec(self, command, cwd=None, env=None, timeout_sec=None, user=None):
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", command), cwd=cwd or self.folder, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await asyncio.wait_for(process.communicate(), timeout_sec)
        return SimpleNamespace(stdout=output.decode() or None, stderr=None, return_code=process.returncode)


async def drive(root: Path, work: Path) -> dict[str, object]:
    sys.path.insert(0, str(root))
    begin = time.perf_counter()
    from agent import Agent  # pyright: ignore

    seconds = time.perf_counter() - begin
    loaded = sorted({name.partition(".")[0] for name in sys.modules})
    environment = Environment(work / "app")
    agent = Agent(logs_dir=work / "logs", model_name=None, from_a_later_validator=True)
    await agent.setup(environment)
    line = await agent.run("Write the word done into result.txt.", environment, SimpleNamespace(env={}))
    return {
        "line": line,
        "python": sys.version.split()[0],
        "import_sec": seconds,
        "loaded_by_import": loaded,
        "loaded": sorted({name.partition(".")[0] for name in sys.modules}),
        "base": type(agent).__mro__[1].__module__,
    }


if __name__ == "__main__":
    root, work = map(Path, sys.argv[1:])
    sys.stdout.write(json.dumps(asyncio.run(drive(root.resolve(), work.resolve()))) + "\n")
