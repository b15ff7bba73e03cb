"""Restoring: a cell's folder made from a backup, which stays as it is.

The copy is put together and read as a whole in a folder inside the new one, `.restoring.*`, and moved out of it once it
is on the disk, `cell.db` last. A restore that is cut off leaves no `cell.db`, and a cell does not start on it.
"""

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from bems.embedded import backup
from bems.embedded.backup import DATABASES, Backup, OnProgress
from bems.embedded.storage import schema
from bems.embedded.storage.database_files import LOCK, PARTIAL_RESTORE_PREFIX, lock_folder
from bems.embedded.storage.file_permissions import make_folder

_IGNORED = (LOCK, "lost+found")
"""What the names in an empty folder may begin with: the lock that we made, and what a file system has in its root."""

_NAMED = 3


class RestoreRefused(Exception):
    """There is no backup, or the folder cannot take it; the message says what to do. Nothing was changed."""


def restore(source: Path, folder: Path, on_progress: OnProgress = lambda *_: None) -> Backup:
    """Make the cell in `folder` from the backup in `source`. The folder is empty, or not there yet.

    RestoreRefused; StoreRefused where the backup's files are not a cell's, or of a newer version; StoreFailed where
    they are damaged, could not be read, or the copy not be written. Then the folder is as it was.
    """
    _refuse_source(source)
    backup.inspect_files(source)
    _refuse_folder(folder)
    is_new = not folder.exists()
    size = backup.count_bytes(source)
    free = shutil.disk_usage(folder.parent if is_new else folder).free
    if size > free:
        raise RestoreRefused(f"{folder}: the copy needs {size:,} bytes, and {free:,} are free there")
    try:
        make_folder(folder)
    except OSError as error:
        raise RestoreRefused(f"{folder} cannot be made: {error.strerror}") from error
    lock = lock_folder(folder)
    try:
        # Somebody may have started a cell there meanwhile, and ended it.
        _refuse_folder(folder)
        restored = _fill(folder, source, size, on_progress)
    except BaseException:
        lock.close()
        (folder / LOCK).unlink(missing_ok=True)
        if is_new:
            with suppress(OSError):
                folder.rmdir()
        raise
    lock.close()
    return restored


def _fill(folder: Path, source: Path, size: int, on_progress: OnProgress) -> Backup:
    """Have all that was copied in the folder, or nothing."""
    part, moved = None, list[Path]()
    try:
        with backup.translate_copy_errors(folder):
            part = Path(tempfile.mkdtemp(prefix=PARTIAL_RESTORE_PREFIX, dir=folder))
            backup.copy_files(source, part, size, on_progress, is_at_rest=True)
            restored = backup.verify_copy(part, "integrity_check")
            backup.sync(part)
            names = [name for name, _, _ in DATABASES if (part / name).exists() and name != schema.DATABASE]
            for name in (*names, schema.DATABASE):
                backup.sync(folder)
                moved.append((part / name).rename(folder / name))
            part.rmdir()
            backup.sync(folder)
            backup.sync(folder.parent)
        return restored
    except BaseException:
        for path in moved:
            path.unlink(missing_ok=True)
        if part:
            shutil.rmtree(part, ignore_errors=True)
        raise


def _refuse_source(source: Path) -> None:
    if (source / schema.DATABASE).is_file():
        return
    if not source.is_dir():
        raise RestoreRefused(f"{source} is no folder: name the one that bems backup made")
    inner = sorted(path.parent for path in source.glob(f"*/{schema.DATABASE}"))
    hint = f", but {inner[0]} does: name that" if inner else ""
    raise RestoreRefused(f"{source} holds no {schema.DATABASE}, so it is no backup of a cell{hint}")


def _refuse_folder(folder: Path) -> None:
    if not folder.exists() and not folder.is_symlink():
        if not folder.parent.is_dir():
            raise RestoreRefused(f"{folder} cannot be made: {folder.parent} is no folder")
        return
    if not folder.is_dir():
        raise RestoreRefused(f"{folder} is no folder: name one that is empty, or not there yet")
    try:
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith(_IGNORED))
    except OSError as error:
        raise RestoreRefused(f"{folder} cannot be read: {error.strerror}") from error
    if names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        raise RestoreRefused(
            f"{folder} is not empty: it holds {', '.join(names[:_NAMED])}{more}. Stop the cell that uses it, move the "
            "folder away, and run this again; or name a folder that is empty, or not there yet"
        )
