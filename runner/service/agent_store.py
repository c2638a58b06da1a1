"""Agents that requests name or upload. An upload is checked like a submission."""

from __future__ import annotations

import asyncio
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from runner.submission.archive import MAX_ZIP_BYTES, open_archive
from runner.submission.check import check_archive
from runner.web.errors import ServiceError

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class AgentStore:
    """Finds agents by name in `folder` (AGENTS_DIR) and stores uploaded ZIPs by digest."""

    folder: Path
    uploads: Path

    def find(self, name: str) -> Path:
        """Return the agent's ZIP or folder. Raises ServiceError if there is none with this name."""
        if digest := _DIGEST.fullmatch(name):
            path = self.uploads / f"{digest[1]}.zip"
            if path.is_file():
                return path
            raise ServiceError(404, "agent_unknown", "agent: no ZIP with this digest was uploaded")
        path = self._inside(name)
        if path is None:
            message = f"agent: there is no {name[:200]!r} in {self.folder.name} (AGENTS_DIR)"
            raise ServiceError(404, "agent_unknown", message)
        return path

    def _inside(self, name: str) -> Path | None:
        root = self.folder.resolve()
        try:
            path = (root / name).resolve()
            return path if path != root and path.is_relative_to(root) and path.exists() else None
        except (OSError, ValueError, RuntimeError):  # too long, a NUL, a loop of links
            return None

    async def add(self, data: bytes) -> str:
        """Check and store a ZIP. Return its name, `sha256:…`. ServiceError has all findings."""
        if len(data) > MAX_ZIP_BYTES:
            message = f"the agent's ZIP may have {MAX_ZIP_BYTES:,} bytes at most"
            raise ServiceError(413, "zip_too_large", message)
        part = await asyncio.to_thread(self._write_part, data)
        try:
            report = await asyncio.to_thread(lambda: check_archive(open_archive(part), {}))
            if not report.passed:
                findings = [f"{f.code}: {f.message}" for f in report.findings if f.level == "reject"]
                message = f"the validator would refuse this agent: {findings[0]}"
                raise ServiceError(422, "agent_refused", message, findings=findings)
            digest = report.sha256
            await asyncio.to_thread(part.replace, self.uploads / f"{digest}.zip")
        finally:
            await asyncio.to_thread(part.unlink, missing_ok=True)
        return f"sha256:{digest}"

    def _write_part(self, data: bytes) -> Path:
        self.uploads.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.uploads, suffix=".part", delete=False) as file:
            file.write(data)
        return Path(file.name)
