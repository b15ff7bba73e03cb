"""Errors of the store and of the queues in front of it."""


class StoreFailed(Exception):
    """The database cannot be read or written, for example because the disk is full or broken.

    Committed data is safe. A commit that raised this is not in the database, unless the machine crashed at that very
    moment. Sending the same again is safe either way.
    """


class StoreLost(StoreFailed):
    """The database's files are no longer at the paths where they were opened, so whatever is written would be lost.

    The error lasts until the cell is started again. The message names the file and may be shown to any key holder.
    """


class QueueFull(Exception):
    """The queue is full. Nothing was taken; send the request again later."""
