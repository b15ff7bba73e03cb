"""Descriptors: how many files and connections the process may have open, and how many of them are for HTTP.

The cell's own work needs some: databases, their logs and temporary files, the connections that bring alerts away. They
are kept for it, so that no crowd of connections stops an alert.
"""

import logging

try:
    import resource
except ImportError:  # Windows has no such limit.
    resource = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

RESERVED = 256
"""Descriptors that are kept for the cell's own work; half of all, where there are not twice as many."""


def raise_limit(wanted: int) -> int:
    """How many descriptors may be open, once the soft limit is raised to `wanted`, or as far as the hard one lets it.
    A limit that is higher already stays."""
    if resource is None:
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < most:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
        except (OSError, ValueError) as error:
            # macOS has a limit below the one that it names.
            log.warning("the limit of open files stays at %d: %s", soft, error)
    return soft


def room_for_connections(wanted: int) -> int:
    """How many connections may be open at once: `wanted`, or what the limit leaves beside the reserve."""
    limit = raise_limit(wanted + RESERVED)
    return min(wanted, limit - min(RESERVED, limit // 2))
