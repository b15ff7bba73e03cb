"""Files as the commands take them: logs, plain or gzipped, policies, times."""

import gzip
import io
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import click

from bems.calendars import expand
from bems.tracker.config import ConfigError, read_policy
from bems.tracker.instants import EARLIEST, LATEST, Instant, from_datetime
from bems.tracker.policy import Policy, PolicySpec


class LogFile:
    """The lines of an event log, plain or gzipped, and how far they have been read."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._raw: IO[bytes] = sys.stdin.buffer if path == "-" else _open(path)
        head = io.BufferedReader(self._raw, 1 << 16)  # type: ignore[type-var]
        self._lines: Any = gzip.GzipFile(fileobj=head) if head.peek(2)[:2] == b"\x1f\x8b" else head
        self.size: int | None = None if path == "-" else os.fstat(self._raw.fileno()).st_size or None

    def __iter__(self) -> Iterator[bytes]:
        try:
            # A line without end must not fill the memory: the gate refuses it by its size alone.
            while line := self._lines.readline(1 << 20):
                yield line
        except (EOFError, gzip.BadGzipFile, zlib.error) as fault:
            raise click.ClickException(f"{self.path}: the compressed data is damaged: {fault}") from fault

    def position(self) -> int:
        """Bytes of the file that have been read, compressed ones where it is compressed."""
        return self._raw.tell() if self.size else 0


def _open(path: str) -> IO[bytes]:
    try:
        return open(path, "rb", buffering=0)
    except OSError as fault:
        raise click.ClickException(f"{path}: {fault.strerror}") from fault


def load_policy(path: str | None) -> Policy:
    """The policy of a file, or the default one, its calendar expanded."""
    if path is None:
        return expand(PolicySpec())
    try:
        return expand(read_policy(Path(path).read_text(encoding="utf-8"), path))
    except OSError as fault:
        raise click.ClickException(f"{path}: {fault.strerror}") from fault
    except UnicodeDecodeError as fault:
        raise click.ClickException(f"{path}: not UTF-8 text: {fault.reason} at byte {fault.start}") from fault
    except (ConfigError, ValueError) as fault:
        raise click.ClickException(str(fault)) from fault


class InstantParam(click.ParamType[Instant]):
    """An RFC 3339 time, or a date, which is its first instant in UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Instant:
        if isinstance(value, int):
            return value
        try:
            moment = datetime.fromisoformat(f"{value}T00:00:00Z" if len(value) == 10 else value)
            if moment.tzinfo is None:
                raise ValueError
            instant = from_datetime(moment)
        except ValueError:
            self.fail(f"{value!r} is not a time; 2026-03-31 or 2026-03-31T18:00:00+02:00 would be right", param, ctx)
        if not EARLIEST <= instant <= LATEST:
            self.fail(f"{value!r} is not between 1970 and 3000", param, ctx)
        return instant


@contextmanager
def output_file(path: str) -> Iterator[IO[bytes]]:
    """A file to write, or standard output for `-`. It takes its name only once it is whole."""
    if path == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = Path(f"{path}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    except OSError as fault:
        raise click.ClickException(f"{path}: {fault.strerror}") from fault
    finally:
        part.unlink(missing_ok=True)
