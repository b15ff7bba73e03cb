"""Generate the reference pages in docs/reference, and two parts of other pages, from the code.

The parts are the package diagram of docs/architecture.md, and the columns of the time series in docs/contract.md.

`python -m docs.reference` writes them; `python -m docs.reference --check` exits with 1 if one is out of date.
"""

import argparse
import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from bems.cli import bems
from bems.embedded.analytics.time_series import DUCKDB_COLUMNS
from bems.embedded.api.openapi import build_document
from bems.tracker.time_series_schema import SERIES_COLUMNS
from docs import cells_reference

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
CONTRACT = ROOT / "docs" / "contract.md"
PACKAGES = ("bems", "handlers", "infra")
GENERATED = "<!-- Made by `make reference`; do not edit. -->\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is out of date")
    only_check = parser.parse_args().check
    current = pages()
    stale = [path for path, text in current.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{path.relative_to(ROOT)} is out of date: run make reference" if only_check else path.relative_to(ROOT))
        if not only_check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(current[path], encoding="utf-8")
    sys.exit(bool(stale) and only_check)


def pages() -> dict[Path, str]:
    """Return the text of every generated page by its path."""
    return {
        REFERENCE / "cli.md": command_line(),
        REFERENCE / "api.md": http_api(),
        REFERENCE / "cells.md": f"{GENERATED}\n{cells_reference.page()}",
        REFERENCE / "cells.schema.json": cells_reference.json_schema(),
        ARCHITECTURE: with_part(ARCHITECTURE, "packages", packages()),
        CONTRACT: with_part(CONTRACT, "columns", columns()),
    }


def with_part(page: Path, name: str, part: str) -> str:
    """Return the text of a page with its generated part replaced."""
    begin, end = f"<!-- {name}: made by docs/reference.py -->", f"<!-- {name} end -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n{part}{end}{after}"


# -- command line


def command_line() -> str:
    """Return the page of all commands, with their help texts and options."""
    lines = [GENERATED, "# Command line\n", "Every command explains itself with `--help`.\n"]
    for path, command in walk(bems, ("bems",)):
        context = click.Context(command, info_name=" ".join(path))
        name, usage = " ".join(path), " ".join(command.collect_usage_pieces(context))
        lines.append(f"## {name}\n")
        lines.append(f"```\n{name} {usage}\n```\n")
        lines.append(f"{_paragraphs(command.help or '')}\n")
        rows = [record for parameter in command.params if (record := _option_row(parameter, context))]
        if rows:
            lines += ["| option | meaning |", "|---|---|", *rows, ""]
        if command.epilog:
            lines.append(f"{command.epilog}\n")
    return "\n".join(lines)


def walk(group: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield each command below a group, with its path."""
    for name, command in sorted(getattr(group, "commands", {}).items()):
        yield (*path, name), command
        yield from walk(command, (*path, name))


def _paragraphs(text: str) -> str:
    blocks = re.sub(r"\x08\n", "\n", text).split("\n\n")
    return "\n\n".join(" ".join(line.strip() for line in block.splitlines()) for block in blocks)


def _option_row(parameter: click.Parameter, context: click.Context) -> str | None:
    record = parameter.get_help_record(context)
    if record is None:
        return None
    option, meaning = (re.sub(r"\s+", " ", text).replace("|", "\\|") for text in record)
    return f"| `{option}` | {meaning} |"


# -- HTTP API


def http_api() -> str:
    """Return the page of all operations and of the documents that they take and answer."""
    api = build_document()
    lines = [
        GENERATED,
        "# HTTP API\n",
        "The same as `GET /openapi.json` of a running cell. What an event must look like is explained in "
        "[the contract](../contract.md).\n",
    ]
    for path, operations in api["paths"].items():
        for method, operation in operations.items():
            lines += _operation(method.upper(), path, operation)
    lines.append("# Documents\n")
    for name, schema in sorted(api["components"]["schemas"].items()):
        lines += _schema(name, schema)
    return "\n".join(lines)


def _operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"## {method} {path}\n"
    yield f"{operation.get('summary', '')}. {operation.get('description', '')}\n".replace("..", ".")
    parameters = [one for one in operation.get("parameters", []) if "name" in one]
    if parameters:
        yield "| parameter | in | value |\n|---|---|---|"
        for one in parameters:
            yield f"| `{one['name']}` | {one['in']} | {_type(one['schema'])} |"
        yield ""
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if body:
        yield f"Body: {_type(body)}\n"
    yield "| status | answer |\n|---|---|"
    for status, answer in operation["responses"].items():
        contents: dict[str, dict[str, Any]] = answer.get("content", {})
        content = next((one.get("schema") for one in contents.values()), None)
        said = re.sub(r"\s+", " ", answer.get("description", ""))
        yield f"| {status} | {said}{' ' + _type(content) if content else ''} |"
    yield ""


def _schema(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"## {name}\n"
    if schema.get("description"):
        yield re.sub(r"\s+", " ", schema["description"]) + "\n"
    properties = schema.get("properties")
    if not properties:
        yield f"{_type(schema)}\n"
        return
    yield "| field | value | required |\n|---|---|---|"
    for field, value in properties.items():
        described = re.sub(r"\s+", " ", value.get("description", ""))
        required = "yes" if field in schema.get("required", []) else ""
        yield f"| `{field}` | {_type(value)}{': ' + described if described else ''} | {required} |"
    yield ""


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _type(schema: dict[str, Any]) -> str:
    """Return a schema as a few words, with links to the documents that it names."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{_anchor(name)})"
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(_type(one) for one in schema[key])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type", "any value")
    if kind == "array":
        return f"array of {_type(schema.get('items', {}))}"
    words = [kind if isinstance(kind, str) else " or ".join(kind)]
    words += [f"{key} {schema[key]}" for key in ("minimum", "maximum", "minLength", "maxLength") if key in schema]
    if "default" in schema and schema["default"] is not None:
        words.append(f"default `{schema['default']}`")
    return ", ".join(words)


# -- columns


def columns() -> str:
    """Return the table of the columns of the time series, in the order of the table in Iceberg."""
    rows = ["| column | Iceberg | Timestream | DuckDB | meaning |", "|---|---|---|---|---|"]
    for column in SERIES_COLUMNS:
        of_type = column.type
        timestream = of_type.timestream if column.timestream_role == "measure" else column.timestream_role
        duckdb = of_type.duckdb if column.name in DUCKDB_COLUMNS else ""
        rows.append(f"| `{column.name}` | {of_type.iceberg} | {timestream} | {duckdb} | {column.meaning} |")
    return "\n".join(["", *rows, "", ""])


# -- packages


def packages() -> str:
    """Return the tree of packages with the first line of each docstring, and the graph of imports between them."""
    tree = ["```"]
    for folder in sorted(path.parent for top in PACKAGES for path in (ROOT / top).rglob("__init__.py")):
        depth, about = len(folder.relative_to(ROOT).parts) - 1, _first_line(folder / "__init__.py")
        tree.append(f"{'  ' * depth}{folder.name + '/':<{24 - 2 * depth}}{about}".rstrip())
    tree.append("```\n")
    arrows = [f"    {_node(importer)} --> {_node(imported)}" for importer, imported in sorted(_imports())]
    return "\n".join([*tree, "```mermaid", "flowchart TD", *arrows, "```", ""])


def _node(package: str) -> str:
    return f"{package.replace('.', '_')}[{package}]"


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def _imports() -> set[tuple[str, str]]:
    """Return the pairs (importer, imported) of packages, those of `bems` each for itself."""
    found = defaultdict[str, set[str]](set)
    for top in PACKAGES:
        for path in (ROOT / top).rglob("*.py"):
            importer = _package(path.relative_to(ROOT).with_suffix("").parts)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.module:
                    names = [f"{node.module}.{alias.name}" for alias in node.names]
                for name in names:
                    if name.split(".")[0] in PACKAGES:
                        found[importer].add(_package(tuple(name.split("."))))
    return {(a, b) for a, others in found.items() for b in others if a != b and "bems" not in (a, b)}


def _package(parts: tuple[str, ...]) -> str:
    if parts[0] != "bems":
        return parts[0]
    is_package = len(parts) > 1 and ((ROOT / "bems" / parts[1]).is_dir() or parts[1] == "calendars")
    return f"bems.{parts[1]}" if is_package else "bems"


if __name__ == "__main__":
    main()
