"""Submissions: unpacking, refusals, and the interpreter with their libraries."""

from __future__ import annotations

import asyncio
import io
import os
import sys
import zipfile
from pathlib import Path

import pytest
from agent_bench import VARIABLES, Bench

from runner.agents import AgentHost, AgentPackage, PackageError, RequirementsError
from runner.agents.requirements import parse_requirements, prepare_interpreter

AGENT = "class Agent:\n    pass\n"


def zipped(path: Path, files: dict[str, str | bytes], links: tuple[str, ...] = ()) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (0o120777 if name in links else 0o100644) << 16
            archive.writestr(info, data)
    return path


async def test_a_zip_and_a_folder(tmp_path: Path):
    source = tmp_path / "source"
    (source / "src/deep").mkdir(parents=True)
    (source / "agent.py").write_text(AGENT)
    (source / "src/deep/x.py").write_text("x = 1\n")
    (source / "helper.py").write_text("")
    package = await AgentPackage.prepare(source, tmp_path / "cache")
    assert set(package.files) == {"agent.py", "src/deep/x.py"}
    assert package.interpreter == Path(sys.executable)
    again = await AgentPackage.prepare(source, tmp_path / "cache")
    assert again.digest == package.digest
    path = zipped(tmp_path / "a.zip", {"agent.py": AGENT, "helper.py": "y = 2"})
    package = await AgentPackage.prepare(path, tmp_path / "cache")
    package.unpack(tmp_path / "one")
    package.unpack(tmp_path / "two")
    assert (tmp_path / "two/helper.py").read_text() == "y = 2"
    with pytest.raises(FileExistsError):
        package.unpack(tmp_path / "one")


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"agent.py": AGENT, "../up.py": ""}, "parent_path"),
        ({"agent.py": AGENT, "/abs.py": ""}, "absolute_path"),
        ({"agent.py": AGENT, "a\\b.py": ""}, "unsafe_path"),
        ({"agent.py": AGENT, "link": "/etc/passwd"}, "symlink_entry"),
        ({"agent.py": AGENT, "zeros": bytes(5_000_000)}, "compression_ratio_too_high"),
        ({"agent.py": AGENT, **{f"f{n}": "" for n in range(200)}}, "too_many_files"),
        ({"src/agent.py": AGENT}, "missing_entrypoint"),
        ({"agent.py": "class Agent"}, "invalid_entrypoint"),
        ({"agent.py": "if True:\n    class Agent: pass\n"}, "missing_agent_class"),
        ({"agent.py": AGENT, "big": os.urandom(1_100_000)}, "zip_too_large"),
    ],
)
async def test_a_submission_that_a_validator_rejects_is_refused(tmp_path: Path, files: dict, code: str):
    path = zipped(tmp_path / "a.zip", files, links=("link",))
    with pytest.raises(PackageError) as caught:
        await AgentPackage.prepare(path, tmp_path / "cache")
    codes = (f"[{code}]", "[empty_path]")  # a leading slash makes an empty part
    assert any(shown in str(caught.value) for shown in codes)
    assert "\n" not in str(caught.value)


async def test_a_path_without_a_submission_is_refused(tmp_path: Path):
    (tmp_path / "text.zip").write_text("no zip")
    for path in (tmp_path / "text.zip", tmp_path / "nowhere.zip", tmp_path):
        with pytest.raises(PackageError):
            await AgentPackage.prepare(path, tmp_path / "cache")


@pytest.mark.parametrize(
    "line",
    [
        "-e .",
        "--index-url http://x",
        "./local",
        "x @ http://host/x.whl",
        "-r other.txt",
        "git+https://h/x",
        "a b",
    ],
)
def test_only_names_with_versions_are_installed(line: str):
    with pytest.raises(RequirementsError, match=r"requirements\.txt:2: .*only names with versions"):
        parse_requirements(f"pydantic>=2  # fine\n{line}\n")


def test_requirements_in_all_their_forms():
    text = (
        "# c\n\npydantic>=2\nhttpx[socks] == 0.28.1 \\\n  --hash=sha256:ab\nold<1; python_version < '3.0'\n"
    )
    assert [str(r) for r in parse_requirements(text)] == ["pydantic>=2", "httpx[socks]==0.28.1"]


async def test_the_runners_own_interpreter_is_used_if_it_has_everything(tmp_path: Path):
    interpreter = await prepare_interpreter("pydantic>=2\nhttpx\n", tmp_path)
    assert interpreter == Path(sys.executable)
    assert list(tmp_path.iterdir()) == []


async def test_a_virtual_environment_is_created_once_and_has_nothing_else(tmp_path: Path, bench: Bench):
    paths = await asyncio.gather(*(prepare_interpreter("", tmp_path, reuse_own=False) for _ in range(3)))
    interpreter = paths[0]
    assert set(paths) == {interpreter}
    assert interpreter.is_file() and interpreter.is_relative_to(tmp_path / "environments")
    assert len(list((tmp_path / "environments").iterdir())) == 2, "one virtual environment and its lock"
    code = """
    class Agent:
        def __init__(self, logs_dir=None, model_name=None, **extra): pass
        async def setup(self, environment): pass
        async def run(self, instruction, environment, context):
            import importlib.util
            installed = [m for m in ("pydantic", "runner", "httpx") if importlib.util.find_spec(m)]
            return f"{installed} {(await environment.exec('echo hi')).stdout.strip()}"
    """
    source = bench.folder / "bare"
    source.mkdir()
    (source / "agent.py").write_text("import sys\n" + "\n".join(line[4:] for line in code.splitlines()))
    prepared = await AgentPackage.prepare(source, tmp_path)
    package = AgentPackage(prepared.digest, prepared.files, interpreter)
    host = AgentHost(package, environment=bench.environment, logs_dir=bench.logs, variables=VARIABLES)
    outcome = await host.run("x", setup_timeout_sec=30, timeout_sec=30)
    assert outcome.message == "[] hi", outcome


async def test_a_failure_of_pip_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(RequirementsError) as caught:
        await prepare_interpreter("no-such-package-of-ours>=1.0\n", tmp_path)
    assert "no-such-package-of-ours" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not [p for p in (tmp_path / "environments").iterdir() if p.is_dir()]


async def test_a_zip_bomb_costs_little(tmp_path: Path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("agent.py", AGENT)
        archive.writestr("bomb", bytes(200_000_000))
    (tmp_path / "bomb.zip").write_bytes(inner.getvalue())
    with pytest.raises(PackageError):
        await AgentPackage.prepare(tmp_path / "bomb.zip", tmp_path / "cache")
