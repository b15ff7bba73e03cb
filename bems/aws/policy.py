"""The cell's policy: `policy.json` at the root of the functions' asset, written when the cell is synthesized."""

import os
from collections.abc import Mapping
from pathlib import Path

from bems.tracker.policy import Policy
from bems.tracker.policy_file import policy_from_json

POLICY_FILE = "policy.json"


class PolicyMissing(RuntimeError):
    """The policy file is missing or invalid."""


def load_deployed_policy(environ: Mapping[str, str] = os.environ) -> Policy:
    """Read the policy from LAMBDA_TASK_ROOT, the folder of the function's code; outside Lambda from the current folder.

    Raises PolicyMissing.
    """
    path = Path(environ.get("LAMBDA_TASK_ROOT") or ".") / POLICY_FILE
    try:
        return policy_from_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise PolicyMissing(f"{path}: {error}: the functions' asset must hold it, as dump_policy writes it") from error
