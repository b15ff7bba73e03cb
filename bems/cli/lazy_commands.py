"""Commands that are imported when they are used, so that a command starts without the imports of all others."""

from collections import UserDict
from collections.abc import Iterator, Mapping
from importlib import import_module

import click


class LazyCommands(UserDict[str, click.Command]):
    """Commands by name. `modules` names the module of each, in which the command has the same name."""

    def __init__(self, modules: Mapping[str, str]) -> None:
        super().__init__()
        self._modules = modules

    def __getitem__(self, name: str) -> click.Command:
        if name not in self.data:
            self.data[name] = getattr(import_module(self._modules[name]), name)
        return self.data[name]

    def __contains__(self, name: object) -> bool:
        return name in self._modules

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)
