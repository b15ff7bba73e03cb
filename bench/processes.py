"""CPU time, memory and disk use of processes and their children."""

from collections.abc import Iterable
from pathlib import Path

import psutil


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return user and system time of the processes and all their children, including children that have ended."""
    total = 0.0
    for process in family(pids):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def memory_mb(pids: Iterable[int]) -> float:
    """Return the resident memory in MB. Memory that processes share is counted repeatedly."""
    total = 0
    for process in family(pids):
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total / 1e6


def bytes_in(folder: Path) -> int:
    """Return the total size of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def family(pids: Iterable[int]) -> list[psutil.Process]:
    """Return the running processes and their children."""
    found = []
    for pid in pids:
        try:
            process = psutil.Process(pid)
            found += [process, *process.children(recursive=True)]
        except psutil.Error:
            continue
    return found
