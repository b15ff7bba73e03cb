"""Script that prints the path of a Python 3.12, which the emulator and its functions' wheels need.

It runs each candidate to check its version, because the shim of a version manager may exist for a version that is not
selected. Without a match it fails with the list of candidates.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PYTHON_VERSION = "3.12"


def candidates() -> Iterator[str]:
    yield sys.executable
    for name in (f"python{PYTHON_VERSION}", "python3"):
        if found := shutil.which(name):
            yield found
    for folder in (Path("/usr/bin"), Path("/usr/local/bin"), Path("/opt/homebrew/bin")):
        yield str(folder / f"python{PYTHON_VERSION}")
    versions = [
        folder for root in pyenv_roots() for folder in sorted(root.glob(f"versions/{PYTHON_VERSION}.*"), reverse=True)
    ]
    uvs = sorted((Path.home() / ".local/share/uv/python").glob(f"cpython-{PYTHON_VERSION}.*"), reverse=True)
    for folder in (*versions, *uvs):
        yield str(folder / "bin" / "python3")


def pyenv_roots() -> Iterator[Path]:
    yield Path.home() / ".pyenv"
    if pyenv := shutil.which("pyenv"):
        yield Path(subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False).stdout.strip())


def version(python: str) -> str:
    """Return the version of an interpreter, for example "3.12"; "" if it cannot run or lacks venv."""
    script = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    try:
        return subprocess.run([python, "-c", script], capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


if __name__ == "__main__":
    tried = list(dict.fromkeys(candidates()))
    found = next((python for python in tried if version(python) == PYTHON_VERSION), None)
    if found is None:
        sys.exit(f"no Python {PYTHON_VERSION} (with venv) among {', '.join(tried)}")
    print(found)
