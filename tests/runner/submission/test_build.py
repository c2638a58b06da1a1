"""The build is deterministic for any tree, and includes only what belongs in the ZIP."""

import os
import tempfile
import time
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.submission import BuildError, build_zip, open_archive
from tests.fuzz import fuzz

NAMES = st.text(st.characters(codec="ascii", categories=("Ll", "Nd")), min_size=1, max_size=8)
TREES = st.dictionaries(st.tuples(NAMES, NAMES), st.binary(max_size=200), max_size=12)


def write_tree(root: Path, tree: dict[tuple[str, str], bytes], order: int) -> None:
    """Write the tree. Order, modes and times depend on `order`."""
    (root / "agent.py").write_bytes(b"class Agent: ...\n")
    items = sorted(tree.items(), reverse=bool(order))
    for (folder, name), data in items:
        path = root / "src" / folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o600 if order else 0o755)
        os.utime(path, (order * 1_000_000, time.time() - order))


@fuzz(100)
@given(TREES)
def test_the_same_tree_gives_the_same_bytes(tree: dict[tuple[str, str], bytes]) -> None:
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        write_tree(Path(first), tree, 0)
        write_tree(Path(second), tree, 1)
        one, two = build_zip(Path(first)), build_zip(Path(second))
    assert one.data == two.data and one.sha256 == two.sha256
    stored = open_archive(one.data).contents
    assert {
        f"src/{folder}/{name}.py": data for (folder, name), data in tree.items()
    }.items() <= stored.items()


def test_only_the_submissions_files_are_included(tmp_path: Path) -> None:
    write_tree(tmp_path, {("a", "b"): b"x"}, 0)
    for name in [
        ".env",
        "notes.md",
        "tests/test_a.py",
        "src/__pycache__/a.pyc",
        "src/.idea/x",
        "src/a/b.py~",
    ]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    report = build_zip(tmp_path)
    assert report.members == ("agent.py", "src/a/b.py")
    assert set(report.left_out) == {
        ".env",
        "notes.md",
        "tests/",
        "src/__pycache__/",
        "src/.idea/",
        "src/a/b.py~",
    }


def test_requirements_come_from_pyproject(tmp_path: Path) -> None:
    write_tree(tmp_path, {}, 0)
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname="x"\ndependencies = ["pydantic>=2", "httpx>=0.27"]\n'
    )
    assert (
        open_archive(build_zip(tmp_path).data).contents["requirements.txt"] == b"httpx>=0.27\npydantic>=2\n"
    )


def test_of_pyproject_only_the_agents_part_travels(tmp_path: Path) -> None:
    write_tree(tmp_path, {}, 0)
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\n[project]\nname = "x"\nversion = "1"\n'
        'description = "quotes \\" and \U0001f600"\n'
        'requires-python = ">=3.11"\ndependencies = ["httpx>=0.27"]\n'
        '[project.scripts]\nx = "runner:main"\n[project.optional-dependencies]\nrunner = ["docker>=7"]\n'
        "[tool.ruff]\nline-length = 110\n"
    )
    written = tomllib.loads(open_archive(build_zip(tmp_path).data).contents["pyproject.toml"].decode())
    assert written == {
        "project": {
            "name": "x",
            "version": "1",
            "description": 'quotes " and \U0001f600',
            "requires-python": ">=3.11",
            "dependencies": ["httpx>=0.27"],
        }
    }


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda root: (root / "agent.py").unlink(), "agent.py: not found"),
        (
            lambda root: (root / "src").mkdir() or (root / "src/link").symlink_to("/etc/passwd"),
            "symbolic link",
        ),
        (lambda root: os.mkfifo(root / "src") or None, None),
        (lambda root: (root / "pyproject.toml").write_text("[project"), "pyproject.toml"),
        (
            lambda root: (root / "pyproject.toml").write_text('[project]\ndependencies=["x"]'),
            "no lower bound",
        ),
        (lambda root: (root / "pyproject.toml").write_text("[project]\nname=5"), "name: has the wrong type"),
    ],
)
def test_a_wrong_tree_is_one_clear_line(tmp_path: Path, break_it, message: str | None) -> None:
    write_tree(tmp_path, {}, 0)
    break_it(tmp_path)
    if message is None:
        assert build_zip(tmp_path).members == ("agent.py",)
        return
    with pytest.raises(BuildError, match=message) as caught:
        build_zip(tmp_path)
    assert "\n" not in str(caught.value)


def test_our_own_submission_is_small_and_complete() -> None:
    report = build_zip(Path(__file__).parents[3])
    assert len(report.data) <= 1_048_576
    assert {"agent.py", "requirements.txt", "pyproject.toml"} <= set(report.members)
    assert not [name for name in report.members if name.startswith(("tests", "runner", "docs"))]
