"""The submission ZIP: build it, and check it as a validator does before it runs one."""

from runner.submission.archive import Archive, open_archive
from runner.submission.build import BuildError, build_zip
from runner.submission.findings import Finding
from runner.submission.limits import check_entrypoint, check_structure
from runner.submission.rules import check_secrets, check_text

__all__ = [
    "Archive",
    "BuildError",
    "Finding",
    "build_zip",
    "check_entrypoint",
    "check_secrets",
    "check_structure",
    "check_text",
    "open_archive",
]
