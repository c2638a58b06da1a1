"""Dry runs: our own submission in fresh virtual environments, and hostile submissions."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from runner.agents.dry_run import DryRunSpec, dry_run
from runner.submission import build_zip, open_archive
from runner.submission.check import Row

ROOT = Path(__file__).resolve().parents[3]
NOTHING = DryRunSpec("runs_offline", "no library at all", "")
QUICK = {"construction_sec": 3.0, "run_sec": 3.0}

AGENT = """
{top}
class Agent:
    def __init__(self, logs_dir=None, model_name=None, **extra):
        self.logs_dir = logs_dir

    def name(self): return "odd"
    def version(self): return "1"
    async def setup(self, environment): pass
    async def run(self, instruction, environment, context):
        {body}
"""


def zip_of(**files: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "."), text)
    return data.getvalue()


async def run_agent(top: str = "", body: str = "return 'ended'", **files: str) -> Row:
    source = AGENT.format(top=top, body=body)
    return await dry_run(open_archive(zip_of(agent__py=source, **files)), NOTHING, **QUICK)


@pytest.mark.parametrize(
    ("top", "body", "code", "message"),
    [
        ("while True: pass", "return ''", "harbor_submission_code_failed", "after 3 s"),
        ("import os; os._exit(0)", "return ''", "harbor_submission_code_failed", "import or construction"),
        ("raise SystemExit('no')", "return ''", "harbor_submission_code_failed", "SystemExit"),
        ("import nothing_of_that_name", "return ''", "harbor_submission_code_failed", "nothing_of_that_name"),
        ("", "raise ValueError('a\\x1b[31mb')", "harbor_trial_failed", "ValueError: a [31mb"),
        ("", "return 7", "harbor_trial_failed", "int"),
        ("", "__import__('os').kill(0, 9)", "harbor_trial_failed", "execution"),
        ("", "while True: pass", "harbor_agent_timeout_error", "execution"),
    ],
)
async def test_a_submission_that_misbehaves_gets_its_code(
    top: str, body: str, code: str, message: str
) -> None:
    result = await run_agent(top, body)
    assert [finding.code for finding in result.findings] == [code]
    finding = result.findings[0]
    assert message in finding.message and finding.message.isprintable() and finding.remedy


async def test_a_flood_of_output_passes() -> None:
    result = await run_agent(body="print('x' * 50_000_000); return 'ended'")
    assert result.findings == () and "0 calls" in result.note


async def test_the_script_calls_a_tool_of_any_agent() -> None:
    body = """
        import json, urllib.request
        env = context.env
        tool = {"type": "function", "function": {"name": "terminal", "parameters": {"type": "object",
                "properties": {"keystrokes": {"type": "string"}, "wait": {"type": "integer"}},
                "required": ["keystrokes", "wait"]}}}
        call = {"model": env["LLM_MODEL"], "messages": [{"role": "user", "content": instruction}],
                "tools": [tool]}
        request = urllib.request.Request(env["DEEPSEEK_BASE_URL"] + "/chat/completions",
            json.dumps(call).encode(), {"authorization": "Bearer " + env["DEEPSEEK_API_KEY"],
            "content-type": "application/json"})
        with urllib.request.urlopen(request) as response:
            message = json.load(response)["choices"][0]["message"]
        asked = json.loads(message["tool_calls"][0]["function"]["arguments"])
        assert isinstance(asked["wait"], int)
        await environment.exec(asked["keystrokes"])
        return "ended"
    """.strip()
    result = await run_agent(body=body)
    assert result.findings == ()
    assert result.note == "ok: 1 calls of the scripted model, wrote the file"


async def test_requirements_that_cannot_be_installed_are_named() -> None:
    wants = "not-a-package @ file:///etc\n"
    archive = open_archive(zip_of(agent__py=AGENT.format(top="", body="return ''"), requirements__txt=wants))
    result = await dry_run(archive, DryRunSpec("runs_with_requirements", "its own", None), **QUICK)
    assert [finding.code for finding in result.findings] == ["harbor_submission_code_failed"]
    assert "requirements.txt:1" in result.findings[0].message


@pytest.mark.timeout(300)
def test_build_and_check_of_our_own_submission(tmp_path: Path) -> None:
    """Run the whole command, with both virtual environments."""
    out = tmp_path / "agent.zip"
    command = [sys.executable, "build_zip.py", "--out", str(out), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    verdicts = {rule["code"]: rule["verdict"] for rule in report["rules"]}
    for rule in ("runs_with_requirements", "runs_offline"):
        assert verdicts.pop(rule).startswith("ok:") and "wrote the file" in str(report["rules"])
    assert set(verdicts.values()) <= {"ok", "warning"}
    assert out.read_bytes() == build_zip(ROOT).data


def test_a_refused_zip_is_not_run_and_gives_exit_code_1(tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    path = tmp_path / "bad.zip"
    path.write_bytes(zip_of(agent__py=f"open({str(mark)!r}, 'w')\nAgent = 1\n"))
    command = [sys.executable, "build_zip.py", "--check", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "missing_agent_class" in done.stdout
    assert done.stdout.count("not run: refused above") == 2 and not mark.exists()


def test_a_missing_zip_is_one_clear_line() -> None:
    done = subprocess.run(
        [sys.executable, "build_zip.py", "--check", "none.zip"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "none.zip" in done.stderr
