import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from runner.environments.owner import current_owner, is_alive, owned_directory, remove_orphans

ROOT = Path(__file__).parents[3]


def test_we_live_and_the_dead_do_not():
    assert is_alive(current_owner())
    done = subprocess.run(
        [sys.executable, "-c", "from runner.environments.owner import current_owner; print(current_owner())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not is_alive(done.stdout.strip())


def test_a_pid_that_was_given_again_is_not_the_owner():
    boot, namespace, pid, start = current_owner().split("/")
    assert not is_alive(f"{boot}/{namespace}/{pid}/{int(start) - 1}")
    assert not is_alive(f"another-boot/{namespace}/{pid}/{start}")
    assert not is_alive("nonsense")


def test_an_owner_in_a_container_we_cannot_see_is_left_alone():
    boot, _, pid, start = current_owner().split("/")
    assert is_alive(f"{boot}/1/{pid}/{start}")


def test_a_folder_says_who_made_it_and_is_an_orphan_once_that_process_is_gone(tmp_path: Path) -> None:
    mine = owned_directory("capstan-test-", place=str(tmp_path))
    assert remove_orphans("capstan-test-", [str(tmp_path)]) == []
    code = (
        "import sys; from runner.environments.owner import owned_directory;"
        "print(owned_directory('capstan-test-', place=sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    (tmp_path / "capstan-test-unsigned").mkdir()  # somebody is just making it
    assert remove_orphans("capstan-test-", [str(tmp_path)] * 2) == [Path(made)]
    assert mine.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_is_being_made_is_nobodys_orphan(tmp_path: Path) -> None:
    """Made by many at a time, under the eyes of one that sweeps without a pause."""
    stop = threading.Event()
    found: list[Path] = []

    def sweep() -> None:
        while not stop.is_set():
            found.extend(remove_orphans("capstan-test-", [str(tmp_path)]))

    with ThreadPoolExecutor(4) as threads:
        sweeping = threads.submit(sweep)
        for _ in threads.map(lambda _: owned_directory("capstan-test-", place=str(tmp_path)), range(300)):
            pass
        stop.set()
        sweeping.result()
    assert found == []
