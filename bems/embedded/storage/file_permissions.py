"""File permissions: only the user that runs the cell can access its folder and files, whatever the umask is.

A user who can read the files can read every invoice, and one who can open the lock can hold it. On Windows the folder's
access control list applies, and this module does not change it.
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
"""Name prefixes of a cell's files: databases, their logs, the lock, and files that were set aside."""


@contextmanager
def private_umask() -> Iterator[None]:
    """Make new files of this process private to its user within the context. All threads share the umask."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def make_folder(folder: Path) -> None:
    """Create a folder that only its owner can access. An existing folder is left as it is. Raises OSError."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
        folder.chmod(FOLDER_MODE)


def tighten_folder(folder: Path) -> None:
    """Remove other users' access to a cell's folder and its files. Files of another user stay as they are.

    A folder that also holds other files keeps its permissions, because it may be a home directory or `/tmp`. The cell's
    files in it become private all the same.
    """
    names = os.listdir(folder)
    own = [name for name in names if name.startswith(CELL_FILES)]
    changed = [name for name in own if make_private(folder / name)]
    mode = folder.stat().st_mode
    if mode & _OTHERS:
        if len(own) < len(names) or mode & stat.S_ISVTX:
            log.warning("%s stays accessible to other users, because it holds more than a cell", folder)
        elif make_private(folder):
            changed.insert(0, ".")
        else:
            log.warning("%s is accessible to other users and belongs to one of them: chmod it to 700", folder)
    if changed:
        log.warning("%s was accessible to other users; now only to its owner: %s", folder, ", ".join(changed))


def make_private(path: Path) -> bool:
    """Remove everybody's access but the owner's from a file or folder, and return whether that changed anything.

    A file that belongs to another user, is gone, or is a link stays as it is.
    """
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode) or not status.st_mode & _OTHERS:
            return False
        path.chmod(FOLDER_MODE if stat.S_ISDIR(status.st_mode) else FILE_MODE)
    except OSError:
        return False
    return True
