"""Permissions: a cell's folder and its files are for the user that runs the cell, whatever the umask is.

Whoever may read them reads every invoice; whoever may open the lock can hold it. On Windows the folder's own access
list says who may, and nothing here changes it.
"""

import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

FOLDER_MODE, FILE_MODE = 0o700, 0o600
_OTHERS = stat.S_IRWXG | stat.S_IRWXO

CELL_FILES = ("cell.", "deliveries.db", "keys.db", "analytics.duckdb")
"""What the names of a cell's files begin with: databases, their logs, the lock, what was put aside."""


@contextmanager
def private_umask() -> Iterator[None]:
    """What this process makes within is its user's alone. For a process as a whole: threads share the umask."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def make_folder(folder: Path) -> None:
    """Make a folder for its owner only; one that is there already is left as it is. OSError."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
        folder.chmod(FOLDER_MODE)


def tighten_folder(folder: Path) -> None:
    """Take what others may do in a cell's folder, and with its files, from them. What is another user's stays.

    A folder that holds other things too stays open, as it may be anything, a home or `/tmp`; the cell's files do not.
    """
    names = os.listdir(folder)
    own = [name for name in names if name.startswith(CELL_FILES)]
    changed = [name for name in own if make_private(folder / name)]
    mode = folder.stat().st_mode
    if mode & _OTHERS:
        if len(own) < len(names) or mode & stat.S_ISVTX:
            log.warning("%s can be entered by others, and stays so, for it holds more than a cell", folder)
        elif make_private(folder):
            changed.insert(0, ".")
        else:
            log.warning("%s can be entered by others, and belongs to another user: chmod it to 700", folder)
    if changed:
        log.warning("%s was open to others; now it is its owner's alone: %s", folder, ", ".join(changed))


def make_private(path: Path) -> bool:
    """Take a file or folder from everybody but its owner; whether that was so for the first time. One that belongs to
    another user, is gone, or is a link stays as it is."""
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode) or not status.st_mode & _OTHERS:
            return False
        path.chmod(FOLDER_MODE if stat.S_ISDIR(status.st_mode) else FILE_MODE)
    except OSError:
        return False
    return True
