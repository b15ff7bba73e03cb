"""File guard: checks that the files that a process has open are still the ones at their paths.

Removing or renaming a folder does not disturb a process that has files in it open. The process keeps writing to files
that can no longer be found.
"""

import os
from collections.abc import Sequence
from pathlib import Path

_Identity = tuple[int, int]


class FileGuard:
    """Remembers which files are at the given paths when it is created. A path without a file is not watched."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._known = [(str(path), found) for path in paths if (found := _identify(str(path)))]
        self.fault: str | None = None
        """Result of the last `find_fault`."""

    def find_fault(self) -> str | None:
        """Return why writes would be lost, or None. The check takes a few microseconds.

        A fault is permanent: even if the files come back, writes made in between are lost.
        """
        if self.fault is None:
            for path, known in self._known:
                found = _identify(path)
                if found != known:
                    self.fault = _describe(path, found)
                    break
        return self.fault


def _identify(path: str) -> _Identity | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _describe(path: str, found: _Identity | None) -> str:
    changed, folder = path, os.path.dirname(path)
    if found is None and not os.path.isdir(folder):
        changed = folder
    change = "was replaced by another one" if found else "was removed or renamed"
    return (
        f"{changed} {change} while the cell ran, so nothing can be stored: "
        "put the right one back, and start the cell again"
    )
