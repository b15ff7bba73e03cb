"""The policy of the functions: `policy.json` at the root of their asset, written when the cell is synthesized."""

import os
from collections.abc import Mapping
from pathlib import Path

from bems.tracker.policy import Policy
from bems.tracker.policy_file import load_policy

POLICY_FILE = "policy.json"


class PolicyMissing(RuntimeError):
    """There is no policy to decide by, or none that can be read."""


def read_policy(environ: Mapping[str, str] = os.environ) -> Policy:
    """The policy in the folder that Lambda unpacks the asset into (LAMBDA_TASK_ROOT), elsewhere in the current one."""
    path = Path(environ.get("LAMBDA_TASK_ROOT") or ".") / POLICY_FILE
    try:
        return load_policy(path.read_bytes())
    except (OSError, ValueError) as error:
        raise PolicyMissing(f"{path}: {error}: the functions' asset must hold it, as dump_policy writes it") from error
