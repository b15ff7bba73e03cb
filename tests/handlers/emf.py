"""Parser of a function's output: metrics in the embedded metric format, and log lines."""

import json
from typing import Any

import pytest


class Output:
    """Output since the last call of `read_output`."""

    def __init__(self, text: str) -> None:
        self.text = text
        lines = [json.loads(line) for line in text.splitlines()]
        self.logs: list[dict[str, Any]] = [line for line in lines if "_aws" not in line]
        self.metrics: dict[tuple[str, ...], list[float]] = {}
        for line in lines:
            for directive in line.get("_aws", {}).get("CloudWatchMetrics", []):
                assert directive["Namespace"] == "BEMS"
                (dimensions,) = directive["Dimensions"]
                for metric in directive["Metrics"]:
                    key = (metric["Name"], *(line[dimension] for dimension in dimensions))
                    self.metrics.setdefault(key, []).extend(line[metric["Name"]])

    def levels(self) -> list[str]:
        return [line["level"] for line in self.logs]


def read_output(capsys: pytest.CaptureFixture[str]) -> Output:
    return Output(capsys.readouterr().out)
