"""Evaluation of IAM policies (IAM user guide, "Policy evaluation logic").

Tests use it because moto ignores conditions in role policies, accepts a missing external id, refuses every attempt to
assume a role that trusts an account, and matches no topic in a statement. It supports only the policy elements that the
cells use, and raises NotImplementedError for any other, so that nothing is overlooked.
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
    """Return the effect of one policy on a request; `nothing` if no statement matches.

    A matching Deny overrides every Allow. `nothing` is an implicit denial unless another policy allows the request.
    `principal` is an ARN or the name of a service. `context` maps condition keys to values; a condition on a missing
    key never matches. A role's policy has no principals, and its trust policy has no resources.
    """
    effects = {
        statement["Effect"]
        for statement in _as_list(policy["Statement"])
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
        any(_like(pattern.lower(), action.lower()) for pattern in _as_list(statement["Action"]))
        and any(_like(pattern, resource) for pattern in _as_list(statement.get("Resource", resource)))
        and ("Principal" not in statement or _is_one_of(principal, statement["Principal"]))
        and all(
            _holds(operator, context.get(key), _as_list(values))
            for operator, keys in statement.get("Condition", {}).items()
            for key, values in keys.items()
        )
    )


def _is_one_of(principal: str, principals: Any) -> bool:
    if principals == "*":
        return True
    unknown = set(principals) - {"AWS", "Service"}
    if unknown:
        raise NotImplementedError(f"a principal of the kind {', '.join(unknown)}")
    names = [*_as_list(principals.get("AWS", [])), *_as_list(principals.get("Service", []))]
    # An account's root principal stands for every principal in the account that its own policies allow.
    return any(
        name in ("*", principal) or (name.endswith(":root") and _account(name) == _account(principal)) for name in names
    )


def _account(arn: str) -> str:
    return arn.split(":")[4] if arn.startswith("arn:") else ""


def _holds(operator: str, value: str | None, patterns: list[str]) -> bool:
    if operator not in _OPERATORS:
        raise NotImplementedError(f"the condition operator {operator}")
    return value is not None and any(_OPERATORS[operator](pattern, value) for pattern in patterns)


def _like(pattern: str, value: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), value, re.DOTALL) is not None


def _arn_like(pattern: str, value: str) -> bool:
    """Return whether an ARN matches a pattern in each of its six parts; only the last part may contain colons."""
    patterns, parts = pattern.split(":", 5), value.split(":", 5)
    return len(patterns) == len(parts) == 6 and all(map(_like, patterns, parts))


_OPERATORS = {
    "ArnEquals": _arn_like,
    "ArnLike": _arn_like,
    "Bool": lambda pattern, value: pattern.lower() == value.lower(),
    "StringEquals": lambda pattern, value: pattern == value,
    "StringLike": _like,
}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
