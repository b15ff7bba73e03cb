"""What holds for every test."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bems.tracker.cells import CellsFile
from bems.tracker.contract import EVENT_TYPES
from bems.tracker.parsing import Batch, LogLine
from bems.tracker.policy import PolicySpec
from bems.validation.field_errors import validate

# Nothing of the shell's own cloud counts: a profile that is nowhere fails already where handlers are imported.
for name in [*os.environ]:
    if name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE") or name.startswith("AWS_ENDPOINT_URL"):
        del os.environ[name]
os.environ |= {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}

# A type is looked at once. Under freezegun `datetime.date` is another class, and msgspec would not know a date for one.
for known in (CellsFile, PolicySpec, Batch, LogLine, *EVENT_TYPES.values()):
    validate({}, known)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate of localhost and its key, which nobody vouches for."""
    if shutil.which("openssl") is None:
        reason = "there is no program openssl, which makes the certificate"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    files = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*command.split(), *files], cwd=folder, check=True, capture_output=True)
    return folder
