"""Placement: whether the files that a process has open are still the ones under their names.

Who removes or renames a folder does not disturb the process that has its files open: it goes on writing to files that
nobody will find again.
"""

import os
from collections.abc import Sequence
from pathlib import Path

_Identity = tuple[int, int]


class FileGuard:
    """Remembers which files were under some paths, when it is made. A file that is not there yet is not watched."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._known = [(str(path), found) for path in paths if (found := _identify(str(path)))]
        self.fault: str | None = None
        """What was found the last time."""

    def find_fault(self) -> str | None:
        """Why what is written would be lost; None while it would not. It stays what it was found to be: what was
        written meanwhile is lost, whether the files come back or not. A few microseconds."""
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
    what, folder = path, os.path.dirname(path)
    if found is None and not os.path.isdir(folder):
        what = folder
    happened = "was replaced by another one" if found else "was removed or renamed"
    return (
        f"{what} {happened} while the cell ran, so nothing can be kept: "
        "put the right one there, and start the cell again"
    )
