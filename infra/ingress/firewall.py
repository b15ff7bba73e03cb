"""Web application firewall of the API: AWS managed rules, and a rate limit for each IP address."""

from aws_cdk import aws_kms as kms
from aws_cdk import aws_wafv2 as wafv2
from constructs import Construct

from bems.tracker.cells import CellConfig
from infra.common.log_groups import log_group
from infra.common.names import Names

COUNT_ONLY_RULES = (
    "SizeRestrictions_BODY",
    "CrossSiteScripting_BODY",
    "GenericRFI_BODY",
    "GenericLFI_BODY",
    "EC2MetaDataSSRF_BODY",
    "NoUserAgent_HEADER",
)
"""Rules of the common rule set that count matches instead of blocking (WAF developer guide, "Baseline rule groups").

- `SizeRestrictions_BODY` blocks bodies over 8 kB, about nine events; a batch may have a hundred.
- The other four `_BODY` rules mistake vendor names, links and document paths (`../`) in attributes for attacks. Each
  blocked request loses a step of an invoice. The producer limits and validates every body, and no component opens a
  file, page or address that a body names.
- `NoUserAgent_HEADER` blocks programs without a User-Agent header, which senders may be: their API key identifies them.
"""

MANAGED_RULE_GROUPS = ("AWSManagedRulesKnownBadInputsRuleSet", "AWSManagedRulesAmazonIpReputationList")

RATE_WINDOW_SECONDS = 300

_Rule = wafv2.CfnWebACL.RuleProperty


class Firewall(Construct):
    """Web ACL on the API's stage, with a log of blocked requests."""

    def __init__(
        self, scope: Construct, id: str, names: Names, cell: CellConfig, log_key: kms.IKey, stage_arn: str
    ) -> None:
        super().__init__(scope, id)
        managed = [
            self._managed_rule(priority, names, group, COUNT_ONLY_RULES if priority == 0 else ())
            for priority, group in enumerate(("AWSManagedRulesCommonRuleSet", *MANAGED_RULE_GROUPS))
        ]
        acl = wafv2.CfnWebACL(
            self,
            "Acl",
            name=names.prefix,
            description=f"Protects the API of the cell {names.cell}",
            scope="REGIONAL",
            default_action=wafv2.CfnWebACL.DefaultActionProperty(allow={}),
            visibility_config=_visibility(names.prefix),
            rules=[*managed, self._rate_rule(len(managed), names, cell)],
        )
        wafv2.CfnWebACLAssociation(self, "Association", resource_arn=stage_arn, web_acl_arn=acl.attr_arn)
        # WAF only accepts log groups with this prefix.
        group = log_group(self, "Log", f"aws-waf-logs-{names.prefix}", log_key, cell)
        wafv2.CfnLoggingConfiguration(
            self,
            "Logging",
            resource_arn=acl.attr_arn,
            log_destination_configs=[group.log_group_arn],
            redacted_fields=[
                wafv2.CfnLoggingConfiguration.FieldToMatchProperty(single_header={"Name": name})
                for name in ("x-api-key", "authorization")
            ],
            logging_filter={
                "DefaultBehavior": "DROP",
                "Filters": [
                    {
                        "Behavior": "KEEP",
                        "Requirement": "MEETS_ANY",
                        # Counted requests are not logged, because every large batch is one; their metrics suffice.
                        "Conditions": [{"ActionCondition": {"Action": "BLOCK"}}],
                    }
                ],
            },
        )

    @staticmethod
    def _managed_rule(priority: int, names: Names, group: str, count_only: tuple[str, ...]) -> _Rule:
        return _Rule(
            name=group,
            priority=priority,
            override_action=wafv2.CfnWebACL.OverrideActionProperty(none={}),
            visibility_config=_visibility(f"{names.prefix}-{group}"),
            statement=wafv2.CfnWebACL.StatementProperty(
                managed_rule_group_statement=wafv2.CfnWebACL.ManagedRuleGroupStatementProperty(
                    vendor_name="AWS",
                    name=group,
                    rule_action_overrides=[
                        wafv2.CfnWebACL.RuleActionOverrideProperty(
                            name=name, action_to_use=wafv2.CfnWebACL.RuleActionProperty(count={})
                        )
                        for name in count_only
                    ]
                    or None,
                )
            ),
        )

    @staticmethod
    def _rate_rule(priority: int, names: Names, cell: CellConfig) -> _Rule:
        # Twice the limit of one key: source systems may share an address, and a flood exceeds this limit anyway.
        limit = 2 * cell.limits.key.requests_per_second * RATE_WINDOW_SECONDS
        return _Rule(
            name="RatePerAddress",
            priority=priority,
            action=wafv2.CfnWebACL.RuleActionProperty(block={}),
            visibility_config=_visibility(f"{names.prefix}-RatePerAddress"),
            statement=wafv2.CfnWebACL.StatementProperty(
                rate_based_statement=wafv2.CfnWebACL.RateBasedStatementProperty(
                    aggregate_key_type="IP", limit=max(limit, 100), evaluation_window_sec=RATE_WINDOW_SECONDS
                )
            ),
        )


def _visibility(metric: str) -> wafv2.CfnWebACL.VisibilityConfigProperty:
    # Sampled requests would show request headers in the console, including API keys.
    return wafv2.CfnWebACL.VisibilityConfigProperty(
        cloud_watch_metrics_enabled=True, metric_name=metric, sampled_requests_enabled=False
    )
