"""Figures in the README: all come from the results, and all are comparable between machines."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "bench" / "RESULTS.md").read_text(encoding="utf-8")
SECTION = README.partition("## Performance and durability\n")[2].partition("\n## ")[0]


def test_every_figure_is_in_the_results() -> None:
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", SECTION, re.MULTILINE)
    quoted = [number for _, text in rows for number in re.findall(r"\d[\d,.]*\d|\d", text)]
    assert len(quoted) >= 10
    measured = set(re.findall(r"\d[\d,.]*\d|\d", RESULTS))
    assert [number for number in quoted if number not in measured] == []
    multiples = [number for _, text in rows for number in re.findall(r"([\d.]+) times", text)]
    assert len(multiples) >= 4 and [number for number in multiples if f"{number} x" not in RESULTS] == []


def test_cpu_time_is_not_given_in_core_seconds() -> None:
    assert not re.search(r"core-second|\bcores?\b", SECTION)
