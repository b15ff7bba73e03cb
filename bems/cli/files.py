"""Files and times that commands take as arguments, and the files that they write."""

import gzip
import io
import os
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import IO, Any

import click
import msgspec

from bems.calendars import check_country, expand
from bems.cli.errors import UserError
from bems.cli.input_diagnosis import EXPECTED_LOG_FORMAT, diagnose_file
from bems.embedded.storage.policy_history import DEFAULT_SOURCE
from bems.tracker.config import ConfigError, read_policy
from bems.tracker.instants import EARLIEST, LATEST, Instant, from_datetime, without_leap_second
from bems.tracker.parsing import MAX_LINE_BYTES
from bems.tracker.policy import Policy, PolicySpec
from bems.tracker.responses import Error

HEAD_BYTES = 4096
"""Number of bytes at the start of a file that are used to recognize its kind."""


class LogFile:
    """The lines of an event log, plain or gzipped, and the reading position.

    Raises UserError for a file of another kind; `EXPECTED_FORMAT` tells the user what to write instead.
    """

    EXPECTED_FORMAT = EXPECTED_LOG_FORMAT

    def __init__(self, path: str) -> None:
        self.path = path
        self._raw = _open(path)
        head = io.BufferedReader(self._raw, 1 << 16)  # type: ignore[type-var]
        with self._translate_errors():
            lines: Any = gzip.GzipFile(fileobj=head) if head.peek(2)[:2] == b"\x1f\x8b" else head
            # Buffered, so that the beginning can be inspected and still be read.
            self._lines: Any = io.BufferedReader(lines, 1 << 16) if lines is not head else head
            problem = diagnose_file(self._lines.peek(HEAD_BYTES)[:HEAD_BYTES], self.EXPECTED_FORMAT)
        if problem is not None:
            self._raw.close()
            raise UserError(f"{path}: {problem}")
        self.size: int | None = None if path == "-" else os.fstat(self._raw.fileno()).st_size or None

    def __iter__(self) -> Iterator[bytes]:
        """Yield each line. A line too long for an event is cut, to a length that parsing still rejects."""
        limit = MAX_LINE_BYTES + 1
        with self._translate_errors():
            while line := self._lines.readline(limit):
                yield line
                while len(line) == limit and not line.endswith(b"\n"):
                    line = self._lines.readline(limit)

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._raw.close()

    def position(self) -> int:
        """Return the number of bytes read from the file, compressed bytes if it is compressed."""
        return self._raw.tell() if self.size else 0

    def is_file(self, path: str) -> bool:
        """Return whether this log is read from the file at `path`."""
        return self.path != "-" and os.path.exists(path) and os.path.samefile(self.path, path)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, gzip.BadGzipFile, zlib.error) as fault:
            raise UserError(f"{self.path}: the compressed data is damaged: {fault}") from fault
        except OSError as fault:
            raise UserError(f"{self.path}: {fault.strerror}") from fault


def _open(path: str) -> IO[bytes]:
    if path == "-":
        if sys.stdin is None:
            raise UserError("-: there is no standard input")
        return open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)
    try:
        return open(path, "rb", buffering=0)
    except OSError as fault:
        raise UserError(f"{path}: {fault.strerror}") from fault


def read_policy_file(path: str | None) -> Policy:
    """Return a file's policy, or the built-in one for None or `default`, with its calendar expanded."""
    if path is None or path == DEFAULT_SOURCE:
        return expand(PolicySpec())
    text = read_text(path)
    try:
        return expand(read_policy(text, path, check_country))
    except ConfigError as fault:
        raise UserError(str(fault)) from fault
    except ValueError as fault:
        raise UserError(f"{path}: {fault}") from fault


def read_text(path: str) -> str:
    """Return the text of a file in UTF-8."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as fault:
        raise UserError(f"{path}: {fault.strerror}") from fault
    except UnicodeDecodeError as fault:
        raise UserError(f"{path}: not UTF-8 text: {fault.reason} at byte {fault.start}") from fault


def parse_folder(path: str) -> Path:
    """Return the folder at `path`, which need not exist.

    Raises UserError for an empty path, which would mean the current folder, and for one with a NUL.
    """
    if not path or "\0" in path:
        raise UserError(f"{path!r} is not a folder name")
    return Path(path)


class TimeParam(click.ParamType[Instant | date]):
    """Option type of an RFC 3339 time or a date."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Instant | date:
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        try:
            if len(value) == 10:
                day = date.fromisoformat(value)
                if not 1970 < day.year < 3000:
                    self.fail(f"{value!r} is not between 1970 and 3000", param, ctx)
                return day
            moment = datetime.fromisoformat(without_leap_second(value))
            if moment.tzinfo is None:
                raise ValueError
        except ValueError:
            self.fail(f"{value!r} is not a time; use 2026-03-31 or 2026-03-31T18:00:00+02:00", param, ctx)
        instant = from_datetime(moment)
        if not EARLIEST <= instant < LATEST:
            self.fail(f"{value!r} is not between 1970 and 3000", param, ctx)
        return instant


def encode_refusal(line: int, event_id: str | None, errors: Sequence[Error]) -> bytes:
    """Return the JSON line that --refused-out writes for a refused line; pointers are relative to the line."""
    return msgspec.json.encode({"line": line, "event_id": event_id, "errors": errors}) + b"\n"


@contextmanager
def output_file(path: str, *, is_private: bool = True, must_be_new: bool = False) -> Iterator[IO[bytes]]:
    """Open a file for writing, or standard output for `-`.

    A regular file is written to a temporary file and renamed at the end of the block, so it is never seen incomplete.
    With `is_private`, only its owner can read a new file; a replaced file keeps its mode. With `must_be_new`, an
    existing regular file raises UserError, which suggests --force.
    """
    if path == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = Path(os.path.realpath(path))
    with _translate_write_errors(path):
        if target.is_dir():
            raise IsADirectoryError(0, "Is a directory")
        if must_be_new and target.is_file():
            raise FileExistsError(0, "it already exists; choose another file, or overwrite it with --force")
        if target.exists() and not target.is_file():
            temporary, file = None, target.open("wb")
        else:
            new_mode = 0o600 if is_private else 0o666 & ~_umask()
            mode = target.stat().st_mode & 0o777 if target.exists() else new_mode
            descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
            temporary, file = Path(name), os.fdopen(descriptor, "wb")
            os.fchmod(descriptor, mode)
    try:
        with file:
            yield file
        if temporary:
            with _translate_write_errors(path):
                temporary.replace(target)
                temporary = None
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)


@contextmanager
def _translate_write_errors(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        raise UserError(f"{path}: {fault.strerror}") from fault


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
