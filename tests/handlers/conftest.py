"""Fixtures of the tests in this folder."""

import sys

import pytest

from handlers.telemetry import logger
from tests.aws.fixtures import cloud, module_cloud

__all__ = ["cloud", "module_cloud"]


class CurrentStdout:
    """Stream that writes to the current sys.stdout; the logger otherwise keeps the one from its creation."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()


@pytest.fixture(autouse=True)
def logs_are_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logger.registered_handler, "stream", CurrentStdout())
