"""All static checks of a ZIP in the validator's order: size and names, entrypoint, text, secrets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from runner.submission.archive import Archive
from runner.submission.findings import Finding
from runner.submission.limits import LIMITS, check_entrypoint, check_structure
from runner.submission.rules import RULES, check_text
from runner.submission.secrets import check_secrets

SECRET_RULE = "secret_in_zip"


@dataclass(frozen=True, slots=True)
class Row:
    """One rule of the table: its code, what it asks, and what it found (nothing: ok)."""

    code: str
    asks: str
    findings: tuple[Finding, ...]
    note: str = ""

    @property
    def verdict(self) -> str:
        if any(finding.level == "reject" for finding in self.findings):
            return "refused"
        return "warning" if self.findings else (self.note or "ok")


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The ZIP's identity and every rule's verdict."""

    sha256: str
    compressed_size: int
    total_size: int
    files: int
    rows: tuple[Row, ...]

    @property
    def findings(self) -> list[Finding]:
        return [finding for row in self.rows for finding in row.findings]

    @property
    def passed(self) -> bool:
        return not any(finding.level == "reject" for finding in self.findings)


def check_archive(archive: Archive, environ: Mapping[str, str]) -> CheckReport:
    """Check anybody's ZIP, hostile ones included, without running anything of it.

    Args:
        archive: The ZIP as `open_archive` read it.
        environ: Variables whose secret values must not be in the ZIP.
    """
    return CheckReport(
        sha256=archive.sha256,
        compressed_size=archive.compressed_size,
        total_size=archive.total_size,
        files=sum(not member.is_dir for member in archive.members),
        rows=tuple(_static_rows(archive, environ)),
    )


def _static_rows(archive: Archive, environ: Mapping[str, str]) -> list[Row]:
    findings = check_structure(archive)
    if not archive.findings:
        findings += check_entrypoint(archive)
    for path, data in archive.contents.items():
        findings += check_text(path, data)
        findings += check_secrets(path, data, environ)
    asks = dict(LIMITS)
    for rule in RULES:
        asks.setdefault(rule.code, f"no line with: {rule.message}")
    asks[SECRET_RULE] = "no key-shaped string, no value of a variable of the run"
    rows: list[Row] = []
    for code, text in asks.items():
        rows.append(Row(code, text, tuple(finding for finding in findings if finding.code == code)))
    return rows
