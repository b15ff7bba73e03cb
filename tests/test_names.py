"""One name has one meaning: public names that several modules define need a reason, and retired names stay retired."""

import ast
import builtins
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.retired_names import KEPT, RETIRED

ROOT = Path(__file__).parents[1]
PACKAGES = ("bems", "handlers", "infra")

VIEW = "the API's view of what the core or the store calls the same"
CONSTRUCT = "the construct, and the adapter or runtime object of the same AWS resource"
MODULE = "each module's own, with the same meaning and unit"
COMMAND = "a command is a function of its name, beside the function that does the work"

SHARED: dict[str, str] = {
    **dict.fromkeys(
        ("Alert", "Command", "DeadLetter", "Delivery", "Event", "Execution", "Key", "Outcome", "Parked", "Policy"), VIEW
    ),
    **dict.fromkeys(("ManualOutcome", "Note", "Total", "Transition"), VIEW),
    **dict.fromkeys(("Bus", "ClassicBus", "CustomBus", "Dashboard", "TimestreamSeries"), CONSTRUCT),
    **dict.fromkeys(("APPLICATION_ID", "DATABASE", "MIGRATIONS"), "of each of the cell's databases"),
    **dict.fromkeys(
        ("CONNECT_TIMEOUT_SECONDS", "MAX_ATTEMPTS", "POLL_SECONDS", "READ_TIMEOUT_SECONDS", "TIMEOUT_SECONDS"), MODULE
    ),
    **dict.fromkeys(("RETRY_DELAYS", "as_document", "log"), MODULE),
    **dict.fromkeys(("check", "generate", "list_", "replay", "restore"), COMMAND),
    **dict.fromkeys(("Dependencies", "dependencies", "handler"), "what each Lambda function's module has"),
    **dict.fromkeys(("AnswerT", "P", "T"), "type variables"),
    "Column": "of a table that is printed, and of the time series",
    "Executions": "the port, and the embedded runtime's implementation of it",
    "SECOND": "microseconds in both; the engine imports nothing of ours",
    "Wait": "the States Language's state, and the record's wait",
}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def names_of(body: list[ast.stmt]) -> Iterator[str]:
    """Return the names that statements define."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                for one in target.elts if isinstance(target, ast.Tuple) else [target]:
                    if isinstance(one, ast.Name):
                        yield one.id
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def test_public_names_are_defined_once() -> None:
    where = defaultdict[str, set[str]](set)
    for path, tree in modules():
        for name in names_of(tree.body):
            if not name.startswith("_"):
                where[name].add(path)
    shared = {name: sorted(paths) for name, paths in where.items() if len(paths) > 1}
    assert {name: paths for name, paths in shared.items() if name not in SHARED} == {}
    assert sorted(SHARED.keys() - shared.keys()) == [], "these need no reason any more"


def defined_names() -> dict[str, set[str]]:
    """Return where each name of a module, class, function, method or constant is defined."""
    where = defaultdict[str, set[str]](set)
    for path, tree in modules():
        where[Path(path).stem].add(path)
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef):
                for name in names_of(node.body):
                    where[name].add(path)
    return where


def test_retired_names_are_not_used_again() -> None:
    """`python -m tests.retired_names` lists those that are left, with the reason of each."""
    defined = defined_names()
    assert {name: sorted(defined[name]) for name in defined.keys() & RETIRED.keys() - KEPT.keys()} == {}
    assert sorted(KEPT.keys() - RETIRED.keys()) == []
    assert sorted(KEPT.keys() - defined.keys()) == [], "these need no reason any more"


RAISED = re.compile(r"\b[Rr]aises? ([A-Z]\w+)")


def test_documented_exceptions_exist() -> None:
    """A docstring that says "Raises X" names a class that is defined or imported somewhere."""
    known, documented = set(dir(builtins)), defaultdict[str, set[str]](set)
    for path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                known.add(node.name)
            elif isinstance(node, ast.ImportFrom):
                known.update(alias.asname or alias.name for alias in node.names)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                for name in RAISED.findall(node.value):
                    documented[name].add(path)
    assert {name: sorted(paths) for name, paths in documented.items() if name not in known} == {}
