"""The firewall in front of the API: AWS's managed rules, and a rate per address."""

from aws_cdk import aws_kms as kms
from aws_cdk import aws_wafv2 as wafv2
from constructs import Construct

from bems.tracker.cells import Cell
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
"""Rules of the common set that only count, among them all that look into bodies (WAF developer guide, "Baseline rule
groups"). The first refuses bodies over 8 kB, which are nine events, where a batch may have a hundred; the other four
take names of vendors, links and paths to documents (`../`) among the attributes for attacks, and each time the sender
is told 403, a step of an invoice is lost. The gate bounds and checks every body, and nothing here opens a file, page or
address that one names. The last refuses programs that do not say what they are, as senders may: their key does."""

MANAGED_RULE_GROUPS = ("AWSManagedRulesKnownBadInputsRuleSet", "AWSManagedRulesAmazonIpReputationList")

RATE_WINDOW_SECONDS = 300

_Rule = wafv2.CfnWebACL.RuleProperty


class Firewall(Construct):
    """A web ACL on the API's stage, with a log of what it refused."""

    def __init__(self, scope: Construct, id: str, names: Names, cell: Cell, log_key: kms.IKey, stage_arn: str) -> None:
        super().__init__(scope, id)
        managed = [
            self._managed(number, names, rule_set, COUNT_ONLY_RULES if number == 0 else ())
            for number, rule_set in enumerate(("AWSManagedRulesCommonRuleSet", *MANAGED_RULE_GROUPS))
        ]
        acl = wafv2.CfnWebACL(
            self,
            "Acl",
            name=names.prefix,
            description=f"In front of the API of the cell {names.cell}",
            scope="REGIONAL",
            default_action=wafv2.CfnWebACL.DefaultActionProperty(allow={}),
            visibility_config=_visible(names.prefix),
            rules=[*managed, self._rate(len(managed), names, cell)],
        )
        wafv2.CfnWebACLAssociation(self, "Association", resource_arn=stage_arn, web_acl_arn=acl.attr_arn)
        # WAF writes only to groups of this prefix.
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
                        # What is only counted has its metrics: every large batch is.
                        "Conditions": [{"ActionCondition": {"Action": "BLOCK"}}],
                    }
                ],
            },
        )

    @staticmethod
    def _managed(priority: int, names: Names, rule_set: str, counted: tuple[str, ...]) -> _Rule:
        return _Rule(
            name=rule_set,
            priority=priority,
            override_action=wafv2.CfnWebACL.OverrideActionProperty(none={}),
            visibility_config=_visible(f"{names.prefix}-{rule_set}"),
            statement=wafv2.CfnWebACL.StatementProperty(
                managed_rule_group_statement=wafv2.CfnWebACL.ManagedRuleGroupStatementProperty(
                    vendor_name="AWS",
                    name=rule_set,
                    rule_action_overrides=[
                        wafv2.CfnWebACL.RuleActionOverrideProperty(
                            name=name, action_to_use=wafv2.CfnWebACL.RuleActionProperty(count={})
                        )
                        for name in counted
                    ]
                    or None,
                )
            ),
        )

    @staticmethod
    def _rate(priority: int, names: Names, cell: Cell) -> _Rule:
        # Twice what one key may send: source systems share an address, floods do not stop there.
        most = 2 * cell.limits.key.requests_per_second * RATE_WINDOW_SECONDS
        return _Rule(
            name="RatePerAddress",
            priority=priority,
            action=wafv2.CfnWebACL.RuleActionProperty(block={}),
            visibility_config=_visible(f"{names.prefix}-RatePerAddress"),
            statement=wafv2.CfnWebACL.StatementProperty(
                rate_based_statement=wafv2.CfnWebACL.RateBasedStatementProperty(
                    aggregate_key_type="IP", limit=max(most, 100), evaluation_window_sec=RATE_WINDOW_SECONDS
                )
            ),
        )


def _visible(metric: str) -> wafv2.CfnWebACL.VisibilityConfigProperty:
    # Sampled requests would show bodies' headers in the console, keys among them.
    return wafv2.CfnWebACL.VisibilityConfigProperty(
        cloud_watch_metrics_enabled=True, metric_name=metric, sampled_requests_enabled=False
    )
