"""Errors that the store and those who wait for it raise."""


class StoreFailed(Exception):
    """The database cannot be read or written, for example because the disk is full or broken.

    Committed data is safe. A commit that raised this is not in the database, unless the machine crashed at that very
    moment. Sending the same again is safe either way.
    """


class StoreLost(StoreFailed):
    """The database's files are no longer where they were opened, so nobody would find what is written.

    The message names the file and may be shown to any holder of a key. It lasts until the cell is started again.
    """


class QueueFull(Exception):
    """The queue is full. Nothing was taken; send the request again later."""
