"""Makes and checks the submission ZIP: `python build_zip.py [--source .] [--out dist/agent.zip]`.

Exit codes: 0 the ZIP passes every check; 1 a check refuses it; 2 the command or the source tree is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path

from runner.agents.dry_run import check_submission
from runner.submission import BuildError, build_zip
from runner.submission.check import CheckReport
from runner.submission.table import as_json, print_build, print_check

PASSED, REFUSED, USAGE = 0, 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = _parser().parse_args(arguments)
    if options.check is not None:
        return _check(options.check, options)
    try:
        report = build_zip(options.source)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    options.out.parent.mkdir(parents=True, exist_ok=True)
    part = options.out.with_suffix(options.out.suffix + ".part")
    part.write_bytes(report.data)
    part.replace(options.out)
    if not options.json:
        print_build(options.out, report)
    return _check(options.out, options)


def _check(path: Path, options: argparse.Namespace) -> int:
    if not path.is_file():
        print(f"error: {path}: not found: --check wants the path of a ZIP", file=sys.stderr)
        return USAGE
    report: CheckReport = asyncio.run(check_submission(path, os.environ, with_dry_runs=not options.static))
    if options.json:
        print(json.dumps(as_json(path, report), sort_keys=True))
    else:
        print_check(path, report)
    return PASSED if report.passed else REFUSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="build_zip.py",
        description="Make the submission ZIP of a source tree and check it as a validator does.",
        epilog="exit codes: 0 passed, 1 refused by a check, 2 wrong command or source tree",
    )
    parser.add_argument(
        "--source", type=Path, default=Path(), help="the folder that holds agent.py (default: .)"
    )
    parser.add_argument("--out", type=Path, default=Path("dist/agent.zip"), help="where the ZIP goes")
    parser.add_argument(
        "--check", type=Path, metavar="ZIP", help="check this ZIP (anybody's) and build nothing"
    )
    parser.add_argument(
        "--static", action="store_true", help="leave out the run in fresh virtual environments"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    return parser


if __name__ == "__main__":
    sys.exit(main())
