"""Packaging: what the functions' asset holds, made without Docker and the same to the byte wherever it is made.

The dependencies are wheels for the functions' platform, those that `requirements/functions.lock` names by version and
hash. They are fetched once per lock into `.build/`; `make synth` fetches them before it synthesizes, so that synthesis
itself needs no network.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bems.calendars import expand
from bems.tracker.policy import PolicySpec
from bems.tracker.policy_file import dump_policy
from infra.common.profile import Target

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements" / "functions.lock"
BUILD = ROOT / ".build"

POLICY_FILE = "policy.json"
MISSING_NOTE = "WITHOUT-DEPENDENCIES.txt"

SOURCES = ("bems/__init__.py", "bems/tracker", "bems/aws", "handlers")

BOTOCORE_SERVICES = (
    "dynamodb",
    "events",
    "eventbridgev2",
    "firehose",
    "sns",
    "sqs",
    "stepfunctions",
    "timestream-write",
)
"""What botocore must know; the models of the other 400 services are most of its 30 MB, and stay out."""

_INSTALLER_NOTES = ("INSTALLER", "RECORD", "REQUESTED", "direct_url.json")


class DependenciesMissing(RuntimeError):
    """The wheels are not there and could not be fetched."""


def fetch(target: Target, lock: Path = LOCK, build: Path = BUILD) -> Path:
    """The folder of the dependencies for a target, fetched if there is none yet for this lock. DependenciesMissing."""
    folder = build / f"dependencies-{_key(target, lock)}"
    if folder.is_dir():
        return folder
    build.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=build) as temporary:
        fetched = Path(temporary) / "fetched"
        _install(target, lock, fetched)
        _make_reproducible(fetched)
        _move(fetched, folder)
    return folder


def assemble(policy: PolicySpec, dependencies: Path | None, build: Path = BUILD) -> Path:
    """The folder of a cell's asset: own code, `policy.json` and the dependencies, or a note that there are none.

    It is named by what is in it, made whole and then moved there, so that two who synthesize at once do not meet.
    """
    contents = {**_source_files(), POLICY_FILE: dump_policy(expand(policy))}
    if dependencies is None:
        contents[MISSING_NOTE] = b"Synthesized without dependencies: these functions cannot run.\n"
    digest = hashlib.sha256(str(dependencies and dependencies.name).encode())
    for name, content in sorted(contents.items()):
        digest.update(f"\n{name}\n{len(content)}\n".encode() + content)
    folder = build / f"functions-{digest.hexdigest()[:16]}"
    if not folder.is_dir():
        build.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=build) as temporary:
            made = Path(temporary) / "made"
            if dependencies is not None:
                shutil.copytree(dependencies, made)
            for name, content in contents.items():
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                (made / name).write_bytes(content)
            _move(made, folder)
    return folder


def _source_files() -> dict[str, bytes]:
    """The product's own files by their name in the asset."""
    paths = [path for own in SOURCES for path in ([ROOT / own] if (ROOT / own).is_file() else (ROOT / own).rglob("*"))]
    kept = [path for path in paths if path.is_file() and path.suffix != ".pyc"]
    return {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in kept}


def _move(made: Path, folder: Path) -> None:
    try:
        made.rename(folder)
    except OSError:
        # Another process was faster; what it made is the same.
        if not folder.is_dir():
            raise


def _key(target: Target, lock: Path) -> str:
    told = "\n".join((lock.read_text(), target.python, *target.platforms, *BOTOCORE_SERVICES))
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _install(target: Target, lock: Path, folder: Path) -> None:
    platforms = [argument for platform in target.platforms for argument in ("--platform", platform)]
    abi = "cp" + target.python.replace(".", "")
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(folder)),
        *("--no-deps", "--no-compile", "--only-binary", ":all:", "--require-hashes", "--requirement", str(lock)),
        *("--implementation", "cp", "--python-version", target.python, "--abi", abi, "--abi", "abi3", "--abi", "none"),
        *platforms,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DependenciesMissing(
            f"the functions' dependencies of {lock.name} are not in {folder.parent.parent} and could not be fetched "
            f"(this needs a network, once per lock):\n{done.stderr.strip()}"
        )


def _make_reproducible(folder: Path) -> None:
    """Take out what differs from one machine to the next, and what no function reads."""
    shutil.rmtree(folder / "bin", ignore_errors=True)
    for cache in folder.rglob("__pycache__"):
        shutil.rmtree(cache)
    for note in _INSTALLER_NOTES:
        for path in folder.glob(f"*.dist-info/{note}"):
            path.unlink()
    models = folder / "botocore" / "data"
    for model in models.iterdir() if models.is_dir() else ():
        if model.is_dir() and model.name not in BOTOCORE_SERVICES:
            shutil.rmtree(model)
