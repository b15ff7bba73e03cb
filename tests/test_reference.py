"""The generated pages of the documentation are up to date; the JSON Schema of `cells.yaml` agrees with its reader."""

import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import msgspec
import pytest
from msgspec import Struct

from bems.tracker.config import ConfigError, _Document, read_cells
from docs.cells_reference import find_keys, find_structs

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"


def test_the_reference_is_up_to_date() -> None:
    command = [sys.executable, "-m", "docs.reference", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("struct", find_structs(), ids=lambda struct: struct.__name__)
def test_every_key_of_cells_has_a_meaning(struct: type[Struct]) -> None:
    assert [key.name for key in find_keys(struct) if not re.fullmatch(r"[A-Z`].*\.", key.meaning)] == []


class Undescribed(Struct):
    described: int
    """Some number."""
    undescribed: int


def test_a_key_without_a_meaning_is_refused() -> None:
    with pytest.raises(ValueError, match="the field undescribed of Undescribed has no docstring"):
        list(find_keys(Undescribed))


def errors_of_the_schema(text: str) -> list[str]:
    validator = jsonschema.Draft7Validator(msgspec.json.decode((REFERENCE / "cells.schema.json").read_bytes()))
    return [error.message for error in validator.iter_errors(_Document(text).data)]


def test_the_schema_is_valid() -> None:
    jsonschema.Draft7Validator.check_schema(msgspec.json.decode((REFERENCE / "cells.schema.json").read_bytes()))


@pytest.mark.parametrize("path", [ROOT / "cells.yaml", REFERENCE / "cells-example.yaml"], ids=lambda path: path.name)
def test_the_schema_accepts_the_committed_cells(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert errors_of_the_schema(text) == []
    named = re.findall(r"\A# yaml-language-server: \$schema=(\S+)\n", text)
    assert [(path.parent / name).resolve() for name in named] == [REFERENCE / "cells.schema.json"]


@pytest.mark.parametrize(
    "cell",
    [
        "{name: A, region: eu-west-1}",
        "{name: a}",
        "{name: a, region: eu-west-1, policy_file: eu.yaml}",
        "{name: a, region: eu-west-1, policy: 5}",
        "{name: a, region: eu-west-1, policy: {calendar: {country: NL}}}",
        "{name: a, region: eu-west-1, account: ~}",
        "{name: a, region: eu-west-1, concurrency: {provisioned: -1}}",
        '{name: a, region: eu-west-1, tags: {"aws:x": y}}',
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(cell: str) -> None:
    text = f"cells: [{cell}]"
    assert len(errors_of_the_schema(text)) == 1
    with pytest.raises(ConfigError):
        read_cells(text, "x.yaml")
