"""The fixtures of this folder."""

import sys

import pytest

from handlers.telemetry import logger
from tests.aws.fixtures import cloud, module_cloud

__all__ = ["cloud", "module_cloud"]


class CurrentStdout:
    """Whatever is the standard output at the time: the logger keeps the one that it found when it was made."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()


@pytest.fixture(autouse=True)
def logs_are_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logger.registered_handler, "stream", CurrentStdout())
