"""Processes: what the operating system says that one, with its children, has taken."""

from collections.abc import Iterable
from pathlib import Path

import psutil


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of the processes and of all their children, of those too that have ended meanwhile."""
    total = 0.0
    for process in family(pids):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def memory_mb(pids: Iterable[int]) -> float:
    """Resident memory, of processes that share little."""
    total = 0
    for process in family(pids):
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total / 1e6


def bytes_in(folder: Path) -> int:
    """Of all files in it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def family(pids: Iterable[int]) -> list[psutil.Process]:
    """The processes that are there, each with its children."""
    found = []
    for pid in pids:
        try:
            process = psutil.Process(pid)
            found += [process, *process.children(recursive=True)]
        except psutil.Error:
            continue
    return found
