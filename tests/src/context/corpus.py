"""Five megabytes of texts that agents read: source, logs, CSV, hex, Chinese.

They are the same on every machine, except the source, which is that of Python's standard library.
"""

from __future__ import annotations

import base64
import random
import sysconfig
from pathlib import Path

LEAST_CHARACTERS = 5_000_000
CHINESE = (
    "日志文件显示,服务在凌晨三点因内存不足而重启。请检查配置文件中的缓存大小,并确认磁盘空间是否充足。"
    "模型在处理长文本时会先清理旧的工具输出,再由模型自己总结之前的步骤。测试全部通过之后,才能提交结果。"
)


def source() -> list[str]:
    folder = Path(sysconfig.get_path("stdlib"))
    return [path.read_text(encoding="utf-8", errors="replace") for path in sorted(folder.glob("*.py"))]


def logs(draw: random.Random) -> str:
    levels = ("INFO", "WARNING", "ERROR", "DEBUG")
    return "".join(
        f"2026-{draw.randint(1, 12):02}-{draw.randint(1, 28):02}T"
        f"{draw.randint(0, 23):02}:{draw.randint(0, 59):02}:{draw.randint(0, 59):02}Z"
        f" {draw.choice(levels):<8} [worker-{draw.randint(0, 31)}] request {draw.getrandbits(64):016x} took"
        f" {draw.random() * 900:.3f} ms, status={draw.choice((200, 404, 500))}\n"
        for _ in range(3_000)
    )


def table(draw: random.Random) -> str:
    rows = (
        f"{number},{draw.random():.6f},{draw.randint(-9999, 9999)},item {draw.randint(1, 500)},,"
        f'"a, b"\t{draw.randint(1, 9)}'
        for number in range(5_000)
    )
    return "id,share,delta,name,empty,note\r\n" + "\r\n".join(rows)


def hexadecimal(draw: random.Random) -> str:
    data = draw.randbytes(60_000)
    shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)
    lines = (
        f"{at:08x}  {data[at : at + 16].hex(' ')}  |{shown[at : at + 16]}|" for at in range(0, len(data), 16)
    )
    return "\n".join(lines) + "\n" + base64.encodebytes(data).decode() + data[:3_000].hex()


def chinese(draw: random.Random) -> str:
    sentences = [CHINESE[at : at + draw.randint(3, 40)] for at in (draw.randrange(90) for _ in range(3_000))]
    mixed = [
        f"第{draw.randint(1, 999)}行:error_{draw.randint(0, 9)},值={draw.random():.2f}。"
        for _ in range(2_000)
    ]
    return "\n".join(("".join(sentences), "\n".join(mixed), "カタカナとひらがな、한국어 문장."))


def texts() -> list[str]:
    """Return the texts of the corpus. All but the source is cut to the size of a tool result."""
    draw = random.Random(5)
    made = "\x00".join(make(draw) for make in (logs, table, hexadecimal, chinese) for _ in range(2)).split(
        "\x00"
    )
    pieces = [text[at : at + 12_000] for text in made for at in range(0, len(text), 12_000)]
    return [*source(), *pieces]
