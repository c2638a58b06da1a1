"""Seconds that `import agent` takes in each environment: `python benchmarks/import_time.py`."""

from __future__ import annotations

import statistics
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CODE = "import time; b = time.perf_counter(); import agent; print(time.perf_counter() - b)"
ROUNDS = 9


def main() -> None:
    for kind in ("bare", "agent", "harbor"):
        python = ROOT / f".venv-{kind}" / "bin" / "python"
        if not python.exists():
            print(f"{kind}: not here (make environments)")
            continue
        seconds = [
            float(subprocess.run([python, "-c", CODE], cwd=ROOT, capture_output=True, check=True).stdout)
            for _ in range(ROUNDS)
        ]
        print(f"{kind:8} median {statistics.median(seconds):.3f} s, longest {max(seconds):.3f} s of {ROUNDS}")


if __name__ == "__main__":
    main()
