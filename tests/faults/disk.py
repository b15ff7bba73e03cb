"""Simulated disk: writes are durable only after a sync; a power cut may drop or tear those before it.

It is an SQLite VFS over real files, registered as the default one, so that the cell opens its databases as usual. The
real files have what the operating system would return; in addition, the disk keeps what a power cut would leave of each
file. Directory entries are as volatile as content: after a power cut, a new file may be missing, and a deleted one may
exist again.

It injects faults by seed: failing reads, writes and syncs, half-done writes, a full disk, and a crash before any
operation.
"""

from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, Literal

import apsw

SECTOR_BYTES = 512
"""Size of an atomic write, in bytes. SQLite relies on powersafe overwrite only: a write does not change adjacent
bytes."""

NAME, REAL = "bems-simulated", "unix"

Operation = Literal["open", "read", "write", "cut", "sync", "delete"]
CODES: dict[Operation, int] = {
    "open": apsw.SQLITE_CANTOPEN,
    "read": apsw.SQLITE_IOERR_READ,
    "write": apsw.SQLITE_IOERR_WRITE,
    "cut": apsw.SQLITE_IOERR_TRUNCATE,
    "sync": apsw.SQLITE_IOERR_FSYNC,
    "delete": apsw.SQLITE_IOERR_DELETE,
}
_LOGS = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL
NEVER = 1 << 60


class Inode:
    """Content of a file: the durable bytes, and in order the changes that are not durable (writes and truncations)."""

    def __init__(self, content: bytes = b"") -> None:
        self.durable = bytearray(content)
        self.pending: list[tuple[int, bytes] | int] = []
        self.forgotten = False

    def sync(self) -> None:
        for change in self.pending:
            _apply(self.durable, change)
        self.pending.clear()


class Entry:
    """Files that a path referred to, from the durable one to the current one. None: no file."""

    def __init__(self, first: Inode | None) -> None:
        self.history: list[Inode | None] = [first]

    @property
    def current(self) -> Inode | None:
        return self.history[-1]

    @property
    def is_new(self) -> bool:
        return len(self.history) > 1

    def sync(self) -> None:
        del self.history[:-1]


class Disk(apsw.VFS):
    """The disk. It is the default VFS until `unregister`.

    `rates` are failure probabilities by operation; `free_bytes` is how much files may grow, None for no limit. After
    `dies_at` operations, or before the next sync if `dies_at_sync`, the process is dead (`is_dead`): every operation
    fails until `cut_power` or `restart`.
    """

    def __init__(self, random: Random) -> None:
        super().__init__(NAME, REAL, makedefault=True)
        self.random = random
        self.entries: dict[str, Entry] = {}
        self.rates: dict[Operation, float] = {}
        self.free_bytes: int | None = None
        self.operations = 0
        self.dies_at = NEVER
        self.dies_at_sync = False
        self.is_dead = False
        self.failures = 0
        self.open_files = 0
        self.simulation_error: BaseException | None = None
        """An error in the simulation itself."""

    # -- crashes

    def die_after(self, operations: int) -> None:
        """Crash after this many more operations."""
        self.dies_at = self.operations + operations

    def count_operation(self) -> None:
        """Count an operation, after which the process may crash. Also used for events other than disk operations."""
        self.operations += 1
        if self.operations > self.dies_at:
            self.is_dead = True

    def restart(self) -> None:
        """Restart after a crash of the process alone: the operating system has everything that it wrote.

        Changes that the operating system forgot after a failed sync become pending again: no program survives reading
        data that can never become durable.
        """
        assert not self.open_files, "a dead process has no open files"
        self.is_dead, self.dies_at, self.dies_at_sync = False, NEVER, False
        for path, entry in self.entries.items():
            if entry.current and entry.current.forgotten:
                content = Path(path).read_bytes()
                entry.current.pending = [(0, content), len(content)]
                entry.current.forgotten = False

    def cut_power(self, *, drop: bool = False) -> None:
        """Restart after a power cut: keep, drop or tear each pending change, or drop all if `drop`.

        No file may be open.
        """
        kept = 0.0 if drop else self.random.choice((0.0, 0.0, 0.5, 0.9, 1.0))
        torn = 0.0 if drop else self.random.choice((0.0, 0.3, 1.0))
        for path, entry in self.entries.items():
            inode = self.random.choice(entry.history) if entry.is_new else entry.current
            survivor = None if inode is None else self._surviving_content(inode, kept, torn)
            file = Path(path)
            if survivor is None:
                file.unlink(missing_ok=True)
            else:
                file.write_bytes(survivor)
            # Memory shared between connections.
            Path(f"{path}-shm").unlink(missing_ok=True)
            entry.history[:] = [None if survivor is None else Inode(survivor)]
        self.restart()

    def _surviving_content(self, inode: Inode, kept: float, torn: float) -> bytes:
        content = bytearray(inode.durable)
        for change in inode.pending:
            if self.random.random() < kept:
                _apply(content, change)
            elif not isinstance(change, int) and self.random.random() < torn:
                for piece in _sectors(*change):
                    if self.random.random() < 0.5:
                        _apply(content, piece)
        return bytes(content)

    # -- operations of files

    def operate(self, operation: Operation) -> None:
        """Count an operation, and raise if it shall fail."""
        if not self.is_dead:
            self.count_operation()
            self.is_dead |= self.dies_at_sync and operation == "sync"
        if self.is_dead:
            raise _failure(operation)
        rate = self.rates.get(operation)
        if rate and self.random.random() < rate:
            self.failures += 1
            raise _failure(operation)

    def grow(self, by: int) -> None:
        if by > 0 and self.free_bytes is not None:
            if by > self.free_bytes:
                self.failures += 1
                raise _exception(apsw.SQLITE_FULL, "database or disk is full")
            self.free_bytes -= by

    def entry(self, path: str) -> Entry:
        entry = self.entries.get(path)
        if entry is None:
            file = Path(path)
            entry = self.entries[path] = Entry(Inode(file.read_bytes()) if file.exists() else None)
        return entry

    def sync_folder(self) -> None:
        """Make all directory entries durable."""
        for entry in self.entries.values():
            entry.sync()

    def handle_exception(self, kind: object, error: object, trace: object = None) -> None:  # noqa: ARG002
        """Replace `sys.excepthook`: ignore SQLite errors that have no caller, as in closing; keep any other error."""
        if not isinstance(error, apsw.Error):
            self.simulation_error = error if isinstance(error, BaseException) else AssertionError(error)

    def unraisable_hook(self, unraisable: Any) -> None:
        """Replace `sys.unraisablehook`, for connections that were not closed."""
        self.handle_exception(unraisable.exc_type, unraisable.exc_value, unraisable.exc_traceback)

    # -- SQLite VFS methods

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> "DiskFile":  # noqa: N802
        assert name is not None, "temporary files are in memory"
        self.operate("open")
        path = name if isinstance(name, str) else name.filename()
        entry = self.entry(path)
        file = DiskFile(self, entry, name, flags)
        if entry.current is None:
            entry.history.append(Inode())
        return file

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        self.operate("delete")
        super().xDelete(filename, False)
        entry = self.entry(filename)
        entry.history.append(None)
        if syncdir:
            self.sync_folder()

    def xRandomness(self, numbytes: int) -> bytes:  # noqa: N802
        return self.random.randbytes(numbytes)


class DiskFile(apsw.VFSFile):
    """An open file. Other methods go to the real file."""

    def __init__(self, disk: Disk, entry: Entry, name: Any, flags: list[int]) -> None:
        # As SQLite on Unix (os_unix.c, UNIXFILE_DIRSYNC): only the first sync of a log or journal that may be new also
        # syncs the folder.
        self._syncs_folder = bool(flags[0] & apsw.SQLITE_OPEN_CREATE and flags[0] & _LOGS)
        super().__init__(REAL, name, flags)
        self._disk, self._entry = disk, entry
        disk.open_files += 1

    def xClose(self) -> None:  # noqa: N802
        self._disk.open_files -= 1
        super().xClose()

    @property
    def _inode(self) -> Inode:
        assert self._entry.current is not None, "no file is deleted while it is open"
        return self._entry.current

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        self._disk.operate("read")
        return super().xRead(amount, offset)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        content = bytes(data)
        try:
            self._disk.operate("write")
        except apsw.IOError:
            if not self._disk.is_dead and self._disk.random.random() < 0.5:
                self._write(content[: len(content) // 2], offset)
            raise
        self._disk.grow(offset + len(content) - self.xFileSize())
        self._write(content, offset)

    def _write(self, content: bytes, offset: int) -> None:
        super().xWrite(content, offset)
        self._inode.pending.append((offset, content))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self._disk.operate("cut")
        super().xTruncate(newsize)
        self._inode.pending.append(newsize)

    def xSync(self, flags: int) -> None:  # noqa: ARG002, N802
        """Mark the content as durable. The real file needs no sync."""
        try:
            self._disk.operate("sync")
        except apsw.IOError:
            if not self._disk.is_dead:
                # After a failed sync, an operating system may forget changes, and the next sync succeeds.
                random, pending = self._disk.random, self._inode.pending
                pending[:] = [change for change in pending if random.random() < 0.5]
                self._inode.forgotten = True
            raise
        self._inode.sync()
        if self._syncs_folder:
            self._disk.sync_folder()
            self._syncs_folder = False


def _failure(operation: Operation) -> Exception:
    return _exception(CODES[operation], f"disk I/O error in {operation}")


def _exception(code: int, text: str) -> Exception:
    exception = apsw.exception_for(code)
    exception.args = (text,)
    return exception


def _apply(content: bytearray, change: tuple[int, bytes] | int) -> None:
    if isinstance(change, int):
        del content[change:]
        return
    offset, data = change
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _sectors(offset: int, data: bytes) -> list[tuple[int, bytes]]:
    """Split a write into sectors."""
    pieces = []
    while data:
        size = SECTOR_BYTES - offset % SECTOR_BYTES
        pieces.append((offset, data[:size]))
        offset, data = offset + size, data[size:]
    return pieces


def close_all(*closing: Any) -> None:
    """Close the objects of a dead process, and ignore errors of its disk."""
    for one in closing:
        # An object may have several connections: close() raises after closing one, and the next call closes the next.
        for _ in range(3):
            with suppress(apsw.Error):
                one.close()
