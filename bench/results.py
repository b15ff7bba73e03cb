"""Writer of `bench/RESULTS.md`. Different commands write its sections, each with machine and date."""

import os
import platform
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"
SECTIONS = (
    "floor", "throughput", "open_loop", "storage", "hot_path", "replay", "dashboards", "million", "soak",
    "peers", "faults",
)  # fmt: skip
"""Names of the sections in the order of the file."""

HEAD = """# Results

Written by `make bench` (the embedded cell), `make bench-peers` (others beside it) and `make faults`; never by hand.
Each part says when and where it was measured; only figures of one run can be compared. What they mean, and how they
are taken: [docs/benchmarks.md](../docs/benchmarks.md).
"""


def write_section(name: str, title: str, body: str, path: Path = RESULTS) -> None:
    """Replace a section. `body` is Markdown; machine and date are written before it."""
    sections = _read(path)
    sections[name] = f"## {title}\n\n{describe_run()}\n\n{body.strip()}\n"
    written = [f"<!-- {one} -->\n{sections[one]}" for one in SECTIONS if one in sections]
    path.write_text("\n".join([HEAD, *written]), encoding="utf-8")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def describe_run() -> str:
    """Return machine, versions and date in one line."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("apsw", "duckdb", "msgspec", "uvicorn"))
    now = datetime.now(UTC)
    return (
        f"{now:%Y-%m-%d %H:%M} UTC, {_processor()}, {os.cpu_count()} processors, {_memory_gb():.0f} GB, "
        f"{platform.system()} {platform.release()}, {platform.python_implementation()} {platform.python_version()}, "
        f"{versions}"
    )


def _read(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    parts = re.split(r"^<!-- (\w+) -->\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {name: text.rstrip("\n") + "\n" for name, text in zip(parts[::2], parts[1::2], strict=True)}


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
