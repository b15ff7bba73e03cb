"""A disk that forgets: what is written to it is durable once it was synced, and until then a power cut may drop or tear
it.

It stands between SQLite and real files as its VFS, the default one while it is in use, so that the cell opens its
databases as it always does. The real files are what the operating system would show; beside them the disk keeps what
would be left of each without power. A file's entry in its folder is as volatile as its content: a file that was made
may be gone again, one that was deleted may be back.

It fails by seed: reads, writes and syncs that raise, a write of which half is done, no room to grow, and an end of
everything before any one of its operations.
"""

from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, Literal

import apsw

SECTOR = 512
"""Bytes that are written together or not at all. SQLite counts on that on no more than what it is told to (powersafe
overwrite): that the bytes beside a write stay as they are."""

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
    """The content of a file: what is durable, and in order what is not yet: a write, or the size that it was cut to."""

    def __init__(self, content: bytes = b"") -> None:
        self.durable = bytearray(content)
        self.pending: list[tuple[int, bytes] | int] = []
        self.forgotten = False

    def sync(self) -> None:
        for change in self.pending:
            _apply(self.durable, change)
        self.pending.clear()


class Entry:
    """What a path led to, from what is durable to what it leads to now. None: there was no file."""

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
    """The disk. It is the default VFS from when it is made until `unregister`.

    `rates` are the probabilities with which operations fail; `room` is what files may still grow by, None for enough.
    Once `dies_at` operations were made, or before the next sync, it is `dead`, and nothing reaches it any more until
    `cut_power` or `restart`.
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
        """Of this simulation's own."""

    # -- how it ends

    def die_after(self, operations: int) -> None:
        """So many more operations are made, and none after them."""
        self.dies_at = self.operations + operations

    def count_operation(self) -> None:
        """Something happened that is no operation of the disk's, but may be the last thing that happens."""
        self.operations += 1
        if self.operations > self.dies_at:
            self.is_dead = True

    def restart(self) -> None:
        """Only the process died: the operating system has all that it wrote.

        What it forgot is not kept from the next process as well: that it reads what it can never make durable is more
        than any program survives.
        """
        assert not self.open_files, "a process that is dead has no open files"
        self.is_dead, self.dies_at, self.dies_at_sync = False, NEVER, False
        for path, entry in self.entries.items():
            if entry.current and entry.current.forgotten:
                content = Path(path).read_bytes()
                entry.current.pending = [(0, content), len(content)]
                entry.current.forgotten = False

    def cut_power(self, *, drop: bool = False) -> None:
        """What was not synced is kept, dropped or torn; all of it dropped if `drop`. No file may be open."""
        kept = 0.0 if drop else self.random.choice((0.0, 0.0, 0.5, 0.9, 1.0))
        torn = 0.0 if drop else self.random.choice((0.0, 0.3, 1.0))
        for path, entry in self.entries.items():
            inode = self.random.choice(entry.history) if entry.is_new else entry.current
            survivor = None if inode is None else self._survivor(inode, kept, torn)
            file = Path(path)
            if survivor is None:
                file.unlink(missing_ok=True)
            else:
                file.write_bytes(survivor)
            # What connections share in memory.
            Path(f"{path}-shm").unlink(missing_ok=True)
            entry.history[:] = [None if survivor is None else Inode(survivor)]
        self.restart()

    def _survivor(self, inode: Inode, kept: float, torn: float) -> bytes:
        content = bytearray(inode.durable)
        for change in inode.pending:
            if self.random.random() < kept:
                _apply(content, change)
            elif not isinstance(change, int) and self.random.random() < torn:
                for piece in _sectors(*change):
                    if self.random.random() < 0.5:
                        _apply(content, piece)
        return bytes(content)

    # -- for its files

    def operate(self, operation: Operation) -> None:
        """May this be done? It raises where not."""
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
        """What the paths of all files lead to is durable."""
        for entry in self.entries.values():
            entry.sync()

    def handle_exception(self, kind: object, error: object, trace: object = None) -> None:  # noqa: ARG002
        """What failed where nobody could be told, as in closing. In place of `sys.excepthook`."""
        if not isinstance(error, apsw.Error):
            self.simulation_error = error if isinstance(error, BaseException) else AssertionError(error)

    def unraisable_hook(self, told: Any) -> None:
        """The same, of a connection that nobody closed. In place of `sys.unraisablehook`."""
        self.handle_exception(told.exc_type, told.exc_value, told.exc_traceback)

    # -- what SQLite calls

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> "DiskFile":  # noqa: N802
        assert name is not None, "nothing temporary is kept on disk"
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
    """An open file. What is not here goes to the real file."""

    def __init__(self, disk: Disk, entry: Entry, name: Any, flags: list[int]) -> None:
        # As SQLite does on Unix (os_unix.c, UNIXFILE_DIRSYNC): the first sync of a log or journal that it may have made
        # is one of the folder, too, and no other is.
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
        """The real file is not synced: its machine stays on."""
        try:
            self._disk.operate("sync")
        except apsw.IOError:
            if not self._disk.is_dead:
                # An operating system may forget what it could not bring to the disk: the next sync says all is well.
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
    """A write, sector by sector."""
    pieces = []
    while data:
        size = SECTOR - offset % SECTOR
        pieces.append((offset, data[:size]))
        offset, data = offset + size, data[size:]
    return pieces


def close_all(*closing: Any) -> None:
    """Close what is left of a process, whatever its disk says to it."""
    for one in closing:
        # What could not be written on the way is raised, once the connection is closed; then the next one has its turn.
        for _ in range(3):
            with suppress(apsw.Error):
                one.close()
