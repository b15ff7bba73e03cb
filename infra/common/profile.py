"""Profiles: what a cell leaves out for the account that it is deployed to. Everything that differs is said here."""

import platform
from dataclasses import dataclass
from typing import Literal

from constructs import Node

PROFILE = "bems:profile"
"""The context key that names a profile; without it a cell is whole."""


@dataclass(frozen=True)
class Target:
    """What the functions' package is made for: pip's names of a platform, and a Python."""

    platforms: tuple[str, ...]
    python: str


LAMBDA = Target(("manylinux2014_aarch64", "manylinux_2_17_aarch64", "manylinux_2_28_aarch64"), "3.13")
_MACHINE = platform.machine()
LOCAL = Target((f"manylinux2014_{_MACHINE}", f"manylinux_2_17_{_MACHINE}", f"manylinux_2_28_{_MACHINE}"), "3.12")
"""This machine, under the Python that the emulator needs."""


@dataclass(frozen=True)
class Profile:
    """Which parts a cell has. The default is AWS; each field says what the emulator cannot take (`docs/testing.md`)."""

    name: Literal["aws", "emulator"] = "aws"
    archive: bool = True
    """AWS::Events::Archive."""
    firewall: bool = True
    """AWS::WAFv2::WebACLAssociation and LoggingConfiguration."""
    backup: bool = True
    """AWS::Backup::BackupSelection."""
    table_policy: bool = True
    """AWS::S3Tables::TableBucketPolicy."""
    anomaly_bands: bool = True
    """Alarms on an ANOMALY_DETECTION_BAND, which needs an AnomalyDetector."""
    metric_math: bool = True
    """Alarms on an expression of several metrics."""
    target: Target = LAMBDA

    def check(self, delivery: str, time_series: str) -> None:
        """ValueError for a cell that the profile cannot hold at all."""
        if self.name == "emulator" and (delivery, time_series) != ("standard", "s3tables"):
            raise ValueError(
                f"the emulator knows neither AWS::EventsV2 nor AWS::Timestream: a cell with delivery {delivery} and "
                f"time_series {time_series} cannot run there: use standard and s3tables"
            )


AWS = Profile()
EMULATOR = Profile(
    "emulator",
    archive=False,
    firewall=False,
    backup=False,
    table_policy=False,
    anomaly_bands=False,
    metric_math=False,
    target=LOCAL,
)


def read_profile(node: Node) -> Profile:
    """The profile that the context names. ValueError for a name that there is not."""
    name = node.try_get_context(PROFILE) or AWS.name
    for profile in (AWS, EMULATOR):
        if profile.name == name:
            return profile
    raise ValueError(f"{PROFILE} is {name!r}: use {AWS.name} or {EMULATOR.name}")
