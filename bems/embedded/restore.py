"""Restore: create a cell's folder from a backup. The backup itself is not changed.

The copy is made and verified in a subfolder of the new folder, `.restoring.*`. Once it is synced to disk, its files are
moved into the new folder, `cell.db` last. An interrupted restore leaves no `cell.db`, and no cell starts on it.
"""

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from bems.embedded import backup
from bems.embedded.backup import DATABASES, Backup, OnProgress
from bems.embedded.storage import schema
from bems.embedded.storage.database_files import LOCK_FILE, PARTIAL_RESTORE_PREFIX, lock_folder
from bems.embedded.storage.file_permissions import make_folder

_IGNORED_PREFIXES = (LOCK_FILE, "lost+found")
"""Prefixes of the names that an empty folder may hold: the lock made here, and `lost+found` in a file system's root."""

_MAX_LISTED_NAMES = 3
"""Maximum number of file names in an error message."""


class RestoreRefused(Exception):
    """There is no backup, or this folder cannot take it. The message says what to do. Nothing was changed."""


def restore(source: Path, folder: Path, on_progress: OnProgress = lambda *_: None) -> Backup:
    """Create the cell in `folder` from the backup in `source`. The folder must be empty or not exist.

    Raises RestoreRefused, StoreUnusable if the backup's files are not a cell's or of a newer version, and StoreFailed
    if they are damaged or cannot be read, or the copy cannot be written. After an error the folder is as it was.
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
        raise RestoreRefused(f"{folder} cannot be created: {error.strerror}") from error
    lock = lock_folder(folder)
    try:
        # A cell may have run there in the meantime.
        _refuse_folder(folder)
        restored = _fill(folder, source, size, on_progress)
    except BaseException:
        lock.close()
        (folder / LOCK_FILE).unlink(missing_ok=True)
        if is_new:
            with suppress(OSError):
                folder.rmdir()
        raise
    lock.close()
    return restored


def _fill(folder: Path, source: Path, size: int, on_progress: OnProgress) -> Backup:
    """Copy the backup into the folder. On an error, leave nothing there."""
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
        raise RestoreRefused(f"{source} is not a folder: give the folder that bems backup wrote")
    inner = sorted(path.parent for path in source.glob(f"*/{schema.DATABASE}"))
    hint = f", but {inner[0]} does: give that folder" if inner else ""
    raise RestoreRefused(f"{source} holds no {schema.DATABASE}, so it is not a backup of a cell{hint}")


def _refuse_folder(folder: Path) -> None:
    if not folder.exists() and not folder.is_symlink():
        if not folder.parent.is_dir():
            raise RestoreRefused(f"{folder} cannot be created: {folder.parent} is not a folder")
        return
    if not folder.is_dir():
        raise RestoreRefused(f"{folder} is not a folder: choose one that is empty or does not exist")
    try:
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith(_IGNORED_PREFIXES))
    except OSError as error:
        raise RestoreRefused(f"{folder} cannot be read: {error.strerror}") from error
    if names:
        more = f" and {len(names) - _MAX_LISTED_NAMES} more" if len(names) > _MAX_LISTED_NAMES else ""
        raise RestoreRefused(
            f"{folder} is not empty: it holds {', '.join(names[:_MAX_LISTED_NAMES])}{more}. Stop the cell that uses "
            "it, move the folder away, and run this again; or choose a folder that is empty or does not exist"
        )
