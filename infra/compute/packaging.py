"""Build of the functions' asset, without Docker and reproducible to the byte on every machine.

The dependencies are wheels for the functions' platform, pinned by version and hash in `requirements/functions.lock`.
They are fetched into `.build/` once per lock. `make synth` fetches them before it synthesizes, so that synthesis needs
no network.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bems.calendars import expand
from bems.tracker.policy import PolicySpec
from bems.tracker.policy_file import policy_to_json
from infra.common.profile import Target

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS_LOCK = ROOT / "requirements" / "functions.lock"
BUILD = ROOT / ".build"

PACKAGED_POLICY = "policy.json"
MISSING_NOTE = "WITHOUT-DEPENDENCIES.txt"

SOURCES = ("bems/__init__.py", "bems/clock.py", "bems/validation", "bems/tracker", "bems/aws", "handlers")

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
"""AWS services that the functions call. The package contains only their botocore models: those of the other 400
services make up most of botocore's 30 MB."""

_INSTALLER_NOTES = ("INSTALLER", "RECORD", "REQUESTED", "direct_url.json")


class DependenciesMissing(RuntimeError):
    """The functions' dependencies are not in the build folder and could not be fetched."""


def fetch(target: Target, lock: Path = FUNCTIONS_LOCK, build: Path = BUILD) -> Path:
    """Return the folder with the dependencies for a target, and fetch them if this lock has none yet.

    Raises DependenciesMissing when they cannot be fetched.
    """
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
    """Return the folder of a cell's asset, which holds our code, `policy.json` and the dependencies.

    Without dependencies it holds a note that says so. The folder is named by a digest of its contents. It is built in a
    temporary folder and then renamed, so that concurrent syntheses do not interfere.
    """
    contents = {**_source_files(), PACKAGED_POLICY: policy_to_json(expand(policy))}
    if dependencies is None:
        contents[MISSING_NOTE] = b"Synthesized without dependencies: these functions cannot run.\n"
    digest = hashlib.sha256(str(dependencies and dependencies.name).encode())
    for name, content in sorted(contents.items()):
        digest.update(f"\n{name}\n{len(content)}\n".encode() + content)
    folder = build / f"functions-{digest.hexdigest()[:16]}"
    if not folder.is_dir():
        build.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=build) as temporary:
            build_folder = Path(temporary) / "asset"
            if dependencies is not None:
                shutil.copytree(dependencies, build_folder)
            for name, content in contents.items():
                (build_folder / name).parent.mkdir(parents=True, exist_ok=True)
                (build_folder / name).write_bytes(content)
            _move(build_folder, folder)
    return folder


def _source_files() -> dict[str, bytes]:
    """Return the contents of our own source files by their name in the asset."""
    roots = [ROOT / name for name in SOURCES]
    paths = [path for root in roots for path in ([root] if root.is_file() else root.rglob("*"))]
    files = [path for path in paths if path.is_file() and path.suffix != ".pyc"]
    return {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in files}


def _move(source: Path, folder: Path) -> None:
    try:
        source.rename(folder)
    except OSError:
        # If another process has created the folder, its contents are the same.
        if not folder.is_dir():
            raise


def _key(target: Target, lock: Path) -> str:
    text = "\n".join((lock.read_text(), target.python, *target.platforms, *BOTOCORE_SERVICES))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _install(target: Target, lock: Path, folder: Path) -> None:
    platforms = [argument for platform in target.platforms for argument in ("--platform", platform)]
    abi = "cp" + target.python.replace(".", "")
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(folder)),
        *("--no-deps", "--no-compile", "--only-binary", ":all:", "--require-hashes", "--requirement", str(lock)),
        *("--implementation", "cp", "--python-version", target.python, "--abi", abi, "--abi", "abi3", "--abi", "none"),
        *platforms,
    ]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    if completed.returncode:
        raise DependenciesMissing(
            f"the functions' dependencies of {lock.name} are not in {folder.parent.parent} and could not be fetched "
            f"(fetching needs a network, once per lock):\n{completed.stderr.strip()}"
        )


def _make_reproducible(folder: Path) -> None:
    """Remove files that differ between machines and files that no function reads."""
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
