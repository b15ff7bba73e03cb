"""Each command is imported when it is used, and not before."""

import pkgutil
import subprocess
import sys

import click
import pytest

from bems.cli import COMMAND_MODULES, bems, commands
from bems.cli.lazy_commands import LazyCommands


def test_a_command_does_not_import_the_others() -> None:
    program = (
        "import sys; from bems.cli import bems; bems.main(['generate', '--help'], standalone_mode=False); "
        "print(*sorted(name for name in sys.modules if name.startswith('bems.cli.commands.') or name == 'duckdb'))"
    )
    completed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert completed.stdout.splitlines()[-1] == "bems.cli.commands.generate"


def test_every_module_of_commands_has_one() -> None:
    modules = {f"{commands.__name__}.{module.name}" for module in pkgutil.iter_modules(commands.__path__)}
    assert set(COMMAND_MODULES.values()) == modules
    assert {name: command.name for name, command in bems.commands.items()} == {name: name for name in COMMAND_MODULES}


def test_an_unknown_command_raises_key_error() -> None:
    lazy = LazyCommands({"generate": "bems.cli.commands.generate"})
    assert isinstance(lazy["generate"], click.Command) and lazy["generate"] is lazy["generate"]
    assert lazy.get("fly") is None and "fly" not in lazy
    with pytest.raises(KeyError, match="fly"):
        lazy["fly"]
