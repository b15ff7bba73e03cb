"""Compression dictionaries of a new store.

They contain the field names and the most common values that the store compresses, so even the first value is small. A
store keeps the dictionaries that it was created with: changing these files changes new stores only.
`python -m tests.data.seeds` writes the files.
"""

from importlib.resources import files

from bems.embedded.storage.codec import KINDS

FOLDER = files("bems.embedded.storage") / "seeds"


def load_dictionaries() -> dict[str, bytes]:
    """Return the content of each dictionary by the kind of value that it is for."""
    return {kind: (FOLDER / f"{kind}.bin").read_bytes() for kind in KINDS}
