"""Prints the path of a Python 3.12, which the emulator and the functions' wheels in it need; says where it looked.

A version manager's shim on the PATH may answer that the version is not chosen, so each candidate is asked.
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
    """Such as 3.12; nothing where that is no Python."""
    ask = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    try:
        return subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


if __name__ == "__main__":
    tried = list(dict.fromkeys(candidates()))
    found = next((python for python in tried if version(python) == PYTHON_VERSION), None)
    if found is None:
        sys.exit(f"no Python {PYTHON_VERSION} (with venv) among {', '.join(tried)}")
    print(found)
