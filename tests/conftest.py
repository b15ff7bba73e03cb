"""Environment and fixtures of all tests."""

import atexit
import gc
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import settings

from bems.tracker.cells import CellsFile
from bems.tracker.contract import EVENT_TYPES
from bems.tracker.parsing import Batch, LogLine
from bems.tracker.policy import PolicySpec
from bems.validation.field_errors import validate

# Ignore the AWS configuration of the shell: an unknown profile would fail at the import of the handlers.
for name in [*os.environ]:
    if name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE") or name.startswith("AWS_ENDPOINT_URL"):
        del os.environ[name]
os.environ |= {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}

# On a busy machine and under coverage some examples take long, which says nothing about the program.
settings.register_profile("tests", settings(), deadline=None)
settings.load_profile("tests")

# msgspec inspects each type once. Make it do so now: under freezegun `datetime.date` is another class, which msgspec
# would not recognize.
for known in (CellsFile, PolicySpec, Batch, LogLine, *EVENT_TYPES.values()):
    validate({}, known)


@atexit.register
def silence_the_end() -> None:
    """Drop what DuckDB's bindings print at the very end: the objects that threads of tests still hold."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def pytest_collection_finish() -> None:
    """Exempt what the collection has made from garbage collection. Otherwise each full one would visit all of it."""
    gc.freeze()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a self-signed certificate for localhost and its key."""
    if shutil.which("openssl") is None:
        reason = "the program openssl, which makes the certificate, is missing"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    files = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*command.split(), *files], cwd=folder, check=True, capture_output=True)
    return folder
