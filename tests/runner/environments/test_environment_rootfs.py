"""Removing what a sandbox left."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from runner.environments.owner import remove_tree


def test_folders_that_let_nobody_in_are_removed(tmp_path: Path) -> None:
    root = tmp_path / "sandbox"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "file").write_text("x")
    (root / "a" / "b").chmod(0)
    (root / "a").chmod(0)
    remove_tree(root)
    assert not root.exists()


def test_what_lies_above_keeps_its_mode_where_something_else_is_in_the_way(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    root = tmp_path / "sandbox"
    root.write_text("no folder at all")
    remove_tree(root)
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_two_who_remove_the_same_leftover_leave_its_parent_as_it_was(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with ThreadPoolExecutor(8) as threads:
        for _ in range(20):
            root = tmp_path / "sandbox"
            for name in range(30):
                (root / str(name) / "deep").mkdir(parents=True)
            list(threads.map(remove_tree, [root] * 8))
            assert not root.exists()
            assert tmp_path.stat().st_mode & 0o777 == 0o755
