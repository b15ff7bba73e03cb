"""File descriptors: the process's limit, and its split between HTTP connections and the cell's own work.

The cell needs descriptors for databases, their logs and temporary files, and connections that deliver alerts. They are
reserved, so that many HTTP connections cannot stop an alert.
"""

import logging

try:
    import resource
except ImportError:  # Windows has no such limit.
    resource = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

RESERVED_DESCRIPTORS = 256
"""Number of descriptors reserved for the cell's own work; at most half of the limit."""


def raise_limit(wanted: int) -> int:
    """Raise the soft limit of open files to `wanted`, or to the hard limit if that is lower, and return the limit.

    A soft limit that is higher already is left unchanged. Return `wanted` if there is no limit.
    """
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
            # macOS refuses values below its reported hard limit.
            log.warning("the limit of open files could not be raised and stays at %d: %s", soft, error)
    return soft


def limit_connections(wanted: int) -> int:
    """Return how many connections may be open at once: `wanted`, or the limit minus the reserved descriptors."""
    limit = raise_limit(wanted + RESERVED_DESCRIPTORS)
    return min(wanted, limit - min(RESERVED_DESCRIPTORS, limit // 2))
