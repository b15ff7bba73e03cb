"""Deployment profiles: the parts of a cell that are left out where it is deployed to an emulator.

This module names every resource type that is left out there. `tests/e2e/stand_ins.py` replaces the Custom Event Bus and
Timestream, which their cells cannot do without.
"""

import platform
from dataclasses import dataclass
from typing import Literal

from constructs import Node

PROFILE = "bems:profile"
"""CDK context key that names a profile. Default: the profile `aws`, which leaves nothing out."""


@dataclass(frozen=True)
class Target:
    """Platform tags, as pip names them, and Python version for which the functions' dependencies are fetched."""

    platforms: tuple[str, ...]
    python: str


LAMBDA = Target(("manylinux2014_aarch64", "manylinux_2_17_aarch64", "manylinux_2_28_aarch64"), "3.13")
_MACHINE = platform.machine()
LOCAL = Target((f"manylinux2014_{_MACHINE}", f"manylinux_2_17_{_MACHINE}", f"manylinux_2_28_{_MACHINE}"), "3.12")
"""The local machine, with the Python version that the emulator needs."""


@dataclass(frozen=True)
class Profile:
    """Parts that a cell has. The default is everything, for AWS.

    Each field names the resource types that the emulator does not support (`docs/testing.md`).
    """

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
    """Return the profile that the CDK context names. Raises ValueError for an unknown name."""
    name = node.try_get_context(PROFILE) or AWS.name
    for profile in (AWS, EMULATOR):
        if profile.name == name:
            return profile
    raise ValueError(f"{PROFILE} is {name!r}: use {AWS.name} or {EMULATOR.name}")
