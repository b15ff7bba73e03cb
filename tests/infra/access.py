"""Access: what a policy says to a request, by IAM's rules (IAM user guide, "Policy evaluation logic").

moto enforces no condition of a role's policy, takes an external id that is not given for the right one, lets nobody
assume a role that trusts an account, and finds no topic in a statement: so tests ask here. Only what the cells'
policies use is known; anything else is an error, so that nothing is overlooked.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

Verdict = Literal["allowed", "denied", "nothing"]

_KNOWN = {"Effect", "Action", "Resource", "Principal", "Condition", "Sid"}


def verdict(
    policy: Mapping[str, Any],
    action: str,
    resource: str = "*",
    principal: str = "",
    context: Mapping[str, str] | None = None,
) -> Verdict:
    """What one policy says. A Deny that matches overrides; `nothing` is a refusal too, unless another policy allows.

    `principal` is an ARN, or the name of a service. `context` is by condition key; a key that is not there matches no
    condition. A policy of a role has no principals, a role's trust policy no resources.
    """
    effects = {
        statement["Effect"]
        for statement in _listed(policy["Statement"])
        if _matches(statement, action, resource, principal, context or {})
    }
    if "Deny" in effects:
        return "denied"
    return "allowed" if "Allow" in effects else "nothing"


def _matches(
    statement: Mapping[str, Any], action: str, resource: str, principal: str, context: Mapping[str, str]
) -> bool:
    unknown = set(statement) - _KNOWN
    if unknown:
        raise NotImplementedError(f"a statement with {', '.join(unknown)}")
    return (
        any(_like(pattern.lower(), action.lower()) for pattern in _listed(statement["Action"]))
        and any(_like(pattern, resource) for pattern in _listed(statement.get("Resource", resource)))
        and ("Principal" not in statement or _is_one_of(principal, statement["Principal"]))
        and all(
            _holds(operator, context.get(key), _listed(values))
            for operator, keys in statement.get("Condition", {}).items()
            for key, values in keys.items()
        )
    )


def _is_one_of(principal: str, named: Any) -> bool:
    if named == "*":
        return True
    unknown = set(named) - {"AWS", "Service"}
    if unknown:
        raise NotImplementedError(f"a principal of the kind {', '.join(unknown)}")
    names = [*_listed(named.get("AWS", [])), *_listed(named.get("Service", []))]
    # An account's root is everybody in the account whom the account itself lets do this.
    return any(
        name in ("*", principal) or (name.endswith(":root") and _account(name) == _account(principal)) for name in names
    )


def _account(arn: str) -> str:
    return arn.split(":")[4] if arn.startswith("arn:") else ""


def _holds(operator: str, value: str | None, wanted: list[str]) -> bool:
    if operator not in _OPERATORS:
        raise NotImplementedError(f"the condition operator {operator}")
    return value is not None and any(_OPERATORS[operator](pattern, value) for pattern in wanted)


def _like(pattern: str, value: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), value, re.DOTALL) is not None


def _arn_like(pattern: str, value: str) -> bool:
    """By its six parts: a wildcard does not reach over a colon, but in the last one."""
    patterns, parts = pattern.split(":", 5), value.split(":", 5)
    return len(patterns) == len(parts) == 6 and all(map(_like, patterns, parts))


_OPERATORS = {
    "ArnEquals": _arn_like,
    "ArnLike": _arn_like,
    "Bool": lambda pattern, value: pattern.lower() == value.lower(),
    "StringEquals": lambda pattern, value: pattern == value,
    "StringLike": _like,
}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
