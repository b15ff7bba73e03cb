import re
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bems.tracker.cells import (
    MIN_UNRESERVED_INSTANCES,
    AlertsConfig,
    CellConfig,
    CellsFile,
    Concurrency,
    DestinationConfig,
    EmailConfig,
    Embedded,
    Limits,
    LogConfig,
    Rate,
    Smtp,
    StageRates,
    WebhookConfig,
)
from bems.tracker.config import MAX_CHARACTERS, ConfigError, read_cells, read_policy
from bems.tracker.policy import (
    DEFAULT_CRITICAL_AMOUNTS,
    DEFAULT_STAGES,
    CalendarSpec,
    OverrideSpec,
    PolicySpec,
    StageSpec,
    StagesSpec,
    When,
    WhenSpec,
    build_policy,
)

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "cells.yaml"
EXAMPLE = ROOT / "docs" / "reference" / "cells-example.yaml"


def config_error(read: Callable[[str, str], object], text: str) -> ConfigError | None:
    try:
        read(text, "x.yaml")
    except ConfigError as refused:
        return refused
    return None


def errors_of(read: Callable[[str, str], object], text: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        read(dedent(text), "x.yaml")
    assert str(refused.value) == "\n".join(
        f"x.yaml:{error.line}: {error.pointer or 'the file'}: {error.detail}" for error in refused.value.errors
    )
    return str(refused.value).splitlines()


def assert_errors(read: Callable[[str, str], object], text: str, *expected: str) -> None:
    """Assert that each error begins with its expected text, after the file's name, and that there are no others."""
    found = errors_of(read, text)
    assert [line[: len(f"x.yaml:{start}")] for line, start in zip(found, expected, strict=False)] == [
        f"x.yaml:{start}" for start in expected
    ]
    assert len(found) == len(expected)


def test_a_policy_is_read_into_its_structs() -> None:
    text = """
        calendar:
          {country: NL, subdivision: NH, timezone: Europe/Amsterdam, weekend: [sunday],
           days_off: [2026-12-24], days_on: [2026-05-05]}
        stages:
          authorization:
            deadline: 2bd
            escalate_every: 12h
            critical_at: 2
            give_up_at: 5
            overrides:
              - when: {vendor_tier: gold, vendor: V-1, currency: EUR, amount_from: "10000", terms_days_from: 60}
                deadline: due-1bd
              - when: {currency: EUR, amount_from: -5, amount_to: 10.50}
                critical_at: 1
    """
    assert read_policy(dedent(text), "x.yaml") == PolicySpec(
        CalendarSpec("NL", "Europe/Amsterdam", "NH", ("sunday",), (date(2026, 12, 24),), (date(2026, 5, 5),)),
        StagesSpec(
            authorization=StageSpec(
                "2bd",
                "12h",
                2,
                5,
                (
                    OverrideSpec(
                        WhenSpec("gold", "V-1", "EUR", amount_from="10000", terms_days_from=60), deadline="due-1bd"
                    ),
                    OverrideSpec(WhenSpec(currency="EUR", amount_from=-5, amount_to="10.50"), critical_at=1),
                ),
            )
        ),
    )


def test_the_default_policy_can_be_written_out() -> None:
    text = """
        calendar: {country: NL, timezone: Europe/Amsterdam}
        stages:
          ingestion:      {deadline: 10bd, escalate: {every: 20bd, growth: 2}, critical_at: 3, give_up_at: 4}
          authorization:
            deadline: 3bd
            escalate: {every: 10bd, growth: 2}
            critical_at: 3
            give_up_at: 5
            overrides: []
          reconciliation: {deadline: 5bd, escalate: {every: 10bd, growth: 2}, critical_at: 3, give_up_at: 5}
          posting:        {deadline: due-3bd, escalate: {every: 20bd, growth: 2}, critical_at: 3, give_up_at: 4}
    """
    text = dedent(text) + f"critical_amount_from: {DEFAULT_CRITICAL_AMOUNTS}\n"
    spec = read_policy(dedent(text), "x.yaml")
    assert build_policy(spec, frozenset()) == build_policy(PolicySpec(), frozenset())
    assert spec.stages.authorization == DEFAULT_STAGES.authorization


@pytest.mark.parametrize(("written", "is_on"), [("on", True), ("true", True), ("off", False), ("false", False)])
def test_identity_alerts_are_on_or_off(written: str, is_on: bool) -> None:
    spec = read_policy(f"identity: {written}\nwaits_from: occurrence\n", "a.yaml")
    policy = build_policy(spec, frozenset())
    assert (policy.identity, policy.waits_from) == (is_on, "occurrence")
    assert build_policy(read_policy("calendar: {country: NL, timezone: UTC}", "a.yaml"), frozenset()).identity


def test_country_no_is_not_read_as_a_boolean() -> None:
    spec = read_policy("calendar: {country: NO, timezone: Europe/Oslo}", "x.yaml")
    assert spec.calendar.country == "NO"


@pytest.mark.parametrize(
    ("written", "vendor"),
    [
        ("on", "on"),
        ("Yes", "Yes"),
        ("TRUE", "TRUE"),
        ("12:30:00", "12:30:00"),
        ("2026-12-24", "2026-12-24"),
        ("1.5", "1.5"),
        ("1e3", "1e3"),
        ("0x1F", "0x1F"),
        ("007", "007"),
        ("1_000", "1_000"),
        ("9999999999999999999", "9999999999999999999"),
        ("NULL", "NULL"),
        ("=", "="),
        ('"1"', "1"),
        ("'true'", "true"),
        ('"null"', "null"),
    ],
)
def test_only_true_false_and_whole_numbers_are_not_text(written: str, vendor: str) -> None:
    spec = read_policy(f"stages: {{posting: {{overrides: [{{when: {{vendor: {written}}}}}]}}}}", "x.yaml")
    assert spec.stages.posting.overrides == (OverrideSpec(WhenSpec(vendor=vendor)),)


@pytest.mark.parametrize("written", ["1", "-7", "0", "true", "false", "999999999999999999"])
def test_text_that_reads_as_a_number_or_boolean_needs_quotes(written: str) -> None:
    found = errors_of(read_policy, f"stages: {{posting: {{overrides: [{{when: {{vendor: {written}}}}}]}}}}")
    assert found[0].startswith(f"x.yaml:1: /stages/posting/overrides/0/when/vendor: {written} is a ")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "1: the file: is empty: write at least one key"),
        ("# nothing\n\n", "1: the file: is empty"),
        ("---\n", "2: the file: has no value: give it one"),
        ("~", "1: the file: has no value"),
        ("\n- a\n- b", "2: the file: a list is not an object"),
        ("hello", '1: the file: "hello" is a string, not an object'),
        ("calendar: {\n\n", "3: the file: cannot be read: "),
        ("stages: {}\ncalendar: {country: NL\n", "3: the file: cannot be read: expected ',' or '}'"),
        ("a: b: c", "1: the file: cannot be read: mapping values are not allowed here"),
        ("stages:\n\tposting: {}", "2: the file: has a tab where only spaces may be: use spaces"),
        ("stages: {}\n---\nstages: {}\n", "2: the file: has a second document: put it in a separate file"),
        ("stages: {}\n...\nx\n", "3: the file: "),
        ("%YAML 2.0\n---\nstages: {}", "1: the file: cannot be read: found incompatible YAML document"),
        ("%YAML 1." + "9" * 5000 + "\n---\na: 1", "1: the file: cannot be read: a number in an escape is out of range"),
        ('stages: {}\na: "\\UFFFFFFFF"', "2: the file: cannot be read: a number in an escape is out of range"),
        ("stages: {}\na: \0", '2: the file: has the character "\\u0000", which YAML does not allow: leave it out'),
        ("a: \ud800", '1: the file: has the character "\\ud800", which YAML does not allow'),
        ("stages: " + "[" * 17, "1: the file: cannot be read: over 16 levels deep"),
        ("stages: " + "[" * 100_000, "1: the file: cannot be read: over 16 levels deep"),
        ("? " + "[" * 100_000, "1: the file: cannot be read: over 16 levels deep"),
        ("x" * (MAX_CHARACTERS + 1), "1: the file: has 262145 characters, more than 262144: split it"),
    ],
)
def test_text_that_is_not_a_single_yaml_document_is_refused(text: str, error: str) -> None:
    found = errors_of(read_policy, text)
    assert [line[: len(f"x.yaml:{error}")] for line in found] == [f"x.yaml:{error}"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("stages: {}\nstages: {}", '2: /stages: "stages" is already in line 1: keep one of them'),
        ("stages: {}\n'stages': [[]]", '2: /stages: "stages" is already in line 1'),
        ("stages: {posting: &a {}, ingestion: *a}", '1: /stages/ingestion: "*a" is an alias: repeat the value itself'),
        ("stages: &a [*a]", "1: /stages"),
        ("stages: !!map {}", '1: /stages: "tag:yaml.org,2002:map" is a tag: leave it out'),
        ("stages: !!python/object/apply:os.system [x]", "1: /stages: "),
        ("stages:\n  posting: !x {a: [{b: c}]}", '2: /stages/posting: "!x" is a tag'),
        ("stages:\n", "1: /stages: has no value: give it one, or leave it out"),
        ("stages:\n  posting:\n    overrides:\n      -\n", "4: /stages/posting/overrides/0: has no value"),
        ("1: 2", "1: the file: 1 is not a name: use text, in quotes if need be"),
        ("true: [2, {}]", "1: the file: true is not a name"),
        ("stages:\n  ~: 2", "2: /stages: null is not a name"),
        ("? [stages, {}]\n: {}", "1: the file: this is not a name"),
        ("stages:\n  ? {a: b}\n  : {c: d}", "2: /stages: this is not a name"),
        ("stages: {}\nstagse: {}", '2: /stagse: "stagse" is not a field here: did you mean "stages"?'),
        ("stages:\n  postng: {}", '2: /stages/postng: "postng" is not a field here: did you mean "posting"?'),
        ("<<: {stages: {}}", '1: /<<: "<<" is not a field here'),
        ("a/b~c: 1", '1: /a~1b~0c: "a/b~c" is not a field here'),
        ('"\\ud800": 1', "1: /\\ud800: "),
        ("calendar: {}", '1: /calendar/country: "country" is missing: use '),
    ],
)
def test_yaml_beyond_plain_data_is_refused(text: str, error: str) -> None:
    found = errors_of(read_policy, text)
    assert found[0].startswith(f"x.yaml:{error}")
    assert len({line.split(": ")[1] for line in found}) <= 2


def test_an_empty_policy_is_the_default() -> None:
    assert read_policy("{}", "x.yaml") == PolicySpec()
    assert read_policy("\ufeffstages: {}\r\n", "x.yaml") == PolicySpec()


def test_all_errors_of_a_policy_are_reported_with_their_lines() -> None:
    assert_errors(
        read_policy,
        """\
        calendar:
          country: Holland
          timezone: Europe/Amstredam
          weekend: [saturday, sonday]
          days_off:
            - 2026-12-24
            - 2026-13-24
          days_on: [2026-12-27, 2026-12-24, 2026-12-24]
        stages:
          ingestion:
            deadline: 10 days
            escalate_every: due-5bd
            critical_at: 7
          authorization: {deadline: 0bd, escalate_every: 3000bd, critical_at: 0, give_up_at: 1001}
          reconciliation:
            deadline: 3
            overrides:
              - when: {amount_from: "10000"}
                deadline: due-3db
              - when: {}
              - deadline: 1bd
              - when: {currency: EUR, amount_from: 5, amount_to: 5}
                give_up_at: 2
              - when: {currency: euro, amount_from: 1e4, terms_days_from: -1}
              - when: {vendor_teir: gold}
              - 5
          posting: 3bd
        """,
        '2: /calendar/country: "Holland" does not have the right form: use ',
        '3: /calendar/timezone: "Europe/Amstredam" is not a time zone: use a name of the IANA database',
        '4: /calendar/weekend/1: "sonday" is not one of ',
        '7: /calendar/days_off/1: "2026-13-24" is not a date',
        '8: /calendar/days_on/1: "2026-12-24" is in days_off too: leave it out of one',
        '8: /calendar/days_on/2: "2026-12-24" is in days_off too: leave it out of one',
        '11: /stages/ingestion/deadline: "10 days" is not a deadline: use a whole number and s, m, h, d',
        '12: /stages/ingestion/escalate_every: "due-5bd" counts back from the due date, as only a deadline may: use a',
        "14: /stages/authorization/critical_at: 0 is less than 1: use ",
        '14: /stages/authorization/deadline: "0bd" is not a positive duration: use at least 1bd',
        '14: /stages/authorization/escalate_every: "3000bd" is too long: use at most 2600bd',
        "14: /stages/authorization/give_up_at: 1001 is more than 1000: use ",
        "16: /stages/reconciliation/deadline: 3 is a number, not a string",
        "18: /stages/reconciliation/overrides/0/when: amounts of different currencies do not compare: name a",
        '19: /stages/reconciliation/overrides/0/deadline: "3db" is not a duration: use ',
        "20: /stages/reconciliation/overrides/1/when: there is no condition: use at least one of ",
        '21: /stages/reconciliation/overrides/2/when: "when" is missing',
        "22: /stages/reconciliation/overrides/3/when: no amount is from 5 and below 5: raise amount_to",
        '24: /stages/reconciliation/overrides/4/when/amount_from: "1e4" does not have the right form: use ',
        '24: /stages/reconciliation/overrides/4/when/currency: "euro" does not have the right form: use ',
        "24: /stages/reconciliation/overrides/4/when/terms_days_from: -1 is less than 0: use ",
        '25: /stages/reconciliation/overrides/5/when/vendor_teir: "vendor_teir" is not a field here: did you mean',
        "26: /stages/reconciliation/overrides/6: 5 is a number, not an object",
        '27: /stages/posting: "3bd" is a string, not an object',
    )


def test_a_cell_requires_only_a_name_and_a_region() -> None:
    (cell,) = read_cells("cells: [{name: eu-west, region: eu-west-1}]", "x.yaml").cells
    assert cell == CellConfig(name="eu-west", region="eu-west-1")
    assert (cell.delivery, cell.time_series, cell.removal, cell.termination_protection) == (
        "fifo",
        "s3tables",
        "retain",
        True,
    )
    assert (cell.policy, cell.account, cell.tags) == (None, None, {})
    assert (cell.concurrency.provisioned, cell.tracing, cell.log_retention_days) == (0, True, 30)
    assert cell.alerts.critical == cell.alerts.warning == (DestinationConfig(log=LogConfig()),)
    assert cell.embedded == Embedded("127.0.0.1", 8080, None)


def test_the_mail_server_of_an_embedded_cell() -> None:
    def smtp(text: str) -> Smtp | None:
        return (
            read_cells(f"cells: [{{name: a, region: eu-west-1, embedded: {{smtp: {text}}}}}]", "x.yaml")
            .cells[0]
            .embedded.smtp
        )

    assert smtp("{host: localhost}") == Smtp("localhost", 587, "starttls", None, None, None)
    assert smtp(
        "{host: mail.example.com, port: 465, security: tls, user: bems, password_env: PW, from: b@example.com}"
    ) == Smtp("mail.example.com", 465, "tls", "bems", "PW", "b@example.com")


def test_the_default_limits_allow_60_000_events_a_minute() -> None:
    limits = Limits()
    assert limits.key.requests_per_second * 60 >= 60_000
    assert limits.stages == StageRates(*[Rate(500, 1000)] * 4)
    assert (limits.max_batch, limits.open_executions) == (100, 1_000_000)


def test_the_default_concurrency_fits_the_default_quota() -> None:
    usual = Concurrency()
    assert (usual.account, usual.total, usual.total <= usual.account - MIN_UNRESERVED_INSTANCES) == (1000, 810, True)


def concurrency(text: str) -> Concurrency:
    return read_cells(f"cells: [{{name: a, region: eu-west-1, concurrency: {text}}}]", "x.yaml").cells[0].concurrency


def test_a_small_account_can_run_a_cell_without_reserved_concurrency() -> None:
    small = concurrency("{account: 10, reserved: false, processor: 2}")
    assert small == Concurrency(account=10, reserved=False, processor=2)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{account: 909}", "/cells/0/concurrency: reserves 810 of the 909 instances of the account, of which 100"),
        ("{recorder: 191}", "/cells/0/concurrency: reserves 901 of the 1000 instances of the account"),
        ("{processor: 1}", "/cells/0/concurrency/processor: 1 is less than 2"),
        ("{producer: 0}", "/cells/0/concurrency/producer: 0 is less than 1"),
        ("{processors: 5}", 'did you mean "processor"?'),
        ("{provisioned: -1}", "/cells/0/concurrency/provisioned: -1 is less than 0"),
        ("{provisioned: 101}", '/cells/0/concurrency: "provisioned" is 101, more than the 100 that are left for each'),
        ("{provisioned: 101}", 'lower it, or raise "producer", "processor" or "register_wait"'),
        ("{account: 112, reserved: false, provisioned: 3}", "more than the 2 that"),
        ("{account: 112, reserved: false, provisioned: 3}", 'lower it, or raise the quota and "account"'),
    ],
)
def test_concurrency_above_the_accounts_quota_is_refused(text: str, error: str) -> None:
    with pytest.raises(ConfigError) as raised:
        concurrency(text)
    assert error in str(raised.value)
    assert len(raised.value.errors) == 1


@pytest.mark.parametrize("text", ["{account: 910}", "{provisioned: 100}"])
def test_concurrency_up_to_the_accounts_quota_is_accepted(text: str) -> None:
    assert concurrency(text).total == 810


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("5", "1: /cells/0/policy: 5 is a number, not an object or a string"),
        ("[eu.yaml]", "1: /cells/0/policy: a list is not an object or a string"),
        ('""', '1: /cells/0/policy: "" is empty: use 1 to 256 characters'),
        ("{stage: {}}", '1: /cells/0/policy/stage: "stage" is not a field here: did you mean "stages"?'),
        ("{stages: eu.yaml}", '1: /cells/0/policy/stages: "eu.yaml" is a string, not an object'),
    ],
)
def test_a_policy_is_a_mapping_or_the_path_of_a_file(text: str, error: str) -> None:
    assert_errors(read_cells, f"cells: [{{name: a, region: eu-west-1, policy: {text}}}]", error)


def test_the_keys_of_earlier_versions_are_named_with_their_new_form() -> None:
    assert_errors(
        read_cells,
        """\
        cells:
          - name: a
            region: eu-west-1
            policy_file: eu.yaml
            provisioned_concurrency: 2
          - name: b
            region: eu-west-1
            policy_file: [eu.yaml]
            limits: {policy_file: eu.yaml}
        """,
        '4: /cells/0/policy_file: "policy_file" is now "policy": use "policy: PATH"',
        '5: /cells/0/provisioned_concurrency: "provisioned_concurrency" is now "provisioned" of "concurrency": use '
        '"concurrency: {provisioned: NUMBER}"',
        '8: /cells/1/policy_file: "policy_file" is now "policy": use "policy: PATH"',
        '9: /cells/1/limits/policy_file: "policy_file" is not a field here',
    )


def test_a_cell_is_read_into_its_structs() -> None:
    text = """
        cells:
          - name: us
            region: us-gov-west-1
            account: "012345678901"
            delivery: standard
            time_series: timestream
            policy: policies/us.yaml
            limits: {key: {requests_per_second: 5, burst: 6}, stages: {posting: {requests_per_second: 1, burst: 2}},
                     max_batch: 10, open_executions: 2000000}
            alerts:
              warning: [{log: {}}, {email: {to: [a@example.com], from: b@example.com}}]
              critical: [{webhook: {url: "http://localhost:9000/x?y=@", secret_env: KEY}}, {webhook: {url_env: URL_2}}]
            embedded: {host: "::1", port: 0}
            removal: destroy
            termination_protection: false
            tags: {cost-center: "4711", "a b": ""}
            concurrency: {account: 500, producer: 20, processor: 30, register_wait: 40, escalate: 5, sweeper: 6,
                          recorder: 7, provisioned: 3}
            tracing: false
            log_retention_days: 3653
    """
    assert read_cells(dedent(text), "x.yaml") == CellsFile(
        (
            CellConfig(
                name="us",
                region="us-gov-west-1",
                account="012345678901",
                delivery="standard",
                time_series="timestream",
                policy="policies/us.yaml",
                limits=Limits(Rate(5, 6), StageRates(posting=Rate(1, 2)), 10, 2_000_000),
                alerts=AlertsConfig(
                    warning=(
                        DestinationConfig(log=LogConfig()),
                        DestinationConfig(email=EmailConfig(("a@example.com",), "b@example.com")),
                    ),
                    critical=(
                        DestinationConfig(webhook=WebhookConfig("http://localhost:9000/x?y=@", secret_env="KEY")),
                        DestinationConfig(webhook=WebhookConfig(url_env="URL_2")),
                    ),
                ),
                embedded=Embedded("::1", 0),
                concurrency=Concurrency(
                    account=500,
                    producer=20,
                    processor=30,
                    register_wait=40,
                    escalate=5,
                    sweeper=6,
                    recorder=7,
                    provisioned=3,
                ),
                removal="destroy",
                termination_protection=False,
                tags={"cost-center": "4711", "a b": ""},
                tracing=False,
                log_retention_days=3653,
            ),
        )
    )


def test_all_errors_of_cells_are_reported_with_their_lines() -> None:
    assert_errors(
        read_cells,
        """\
        cells:
          - name: EU_West
            region: europe
            account: 123456789012
            delivery: Standard
            time_series: influx
          - name: eu
            region: eu-west-1
            policy:
              stages:
                posting:
                  deadline: 3dd
            policy_file: eu.yaml
          - name: eu
            region: eu-west-1
            limits:
              key: {requests_per_second: 0}
              max_batch: 101
              open_executions: 1_000_000
          - region: eu-west-1
            alerts:
              warning: []
              critical:
                - {}
                - {log: {}, email: {to: [a@example.com]}}
                - webhook: {url: "https://user:password@example.com/"}
                - webhook: {url: "http://example.com/"}
                - webhook: {url: "https://example.com/", url_env: HOOK}
                - webhook: {url_env: "s3cret!"}
                - email: {to: []}
                - email: {to: [somebody], form: a@example.com}
          - name: a-name-of-21-letters-
            region: eu-west-1
            removal: keep
            termination_protection: yes
            tags: {"aws:x": y, "": z}
            log_retention_days: 31
            embedded: {port: 65536}
            concurrency: {provisioned: -1}
          - name: no-host
            region: eu-west-1
            embedded: {smtp: {port: 0, security: ssl, password: secret, from: bems}}
          - name: half-a-login
            region: eu-west-1
            embedded: {smtp: {host: localhost, user: bems}}
        """,
        '2: /cells/0/name: "EU_West" does not have the right form: use 1 to 20 of a-z, 0-9 and -',
        '3: /cells/0/region: "europe" does not have the right form: use an AWS Region, such as eu-west-1',
        "4: /cells/0/account: 123456789012 is a number, not a string: use 12 digits in quotes",
        '5: /cells/0/delivery: "Standard" is not one of "fifo", "standard"; did you mean "standard"?',
        '6: /cells/0/time_series: "influx" is not one of "s3tables", "timestream"',
        '12: /cells/1/policy/stages/posting/deadline: "3dd" is not a deadline: use ',
        '13: /cells/1/policy_file: "policy_file" is now "policy": use ',
        '14: /cells/2/name: "eu" is the name of cell 1 too: use another',
        '17: /cells/2/limits/key/burst: "burst" is missing',
        "17: /cells/2/limits/key/requests_per_second: 0 is less than 1",
        "18: /cells/2/limits/max_batch: 101 is more than 100",
        '19: /cells/2/limits/open_executions: "1_000_000" is a string, not a whole number',
        '20: /cells/3/name: "name" is missing: use 1 to 20 of a-z',
        "22: /cells/3/alerts/warning: has 0 items, fewer than 1: use 1 to 20 destinations",
        '24: /cells/3/alerts/critical/0: a destination is one way to send: use one of "webhook", "email", "log" in',
        "25: /cells/3/alerts/critical/1: a destination is one way to send",
        '26: /cells/3/alerts/critical/2/webhook/url: "https://user:password@example.com/" does not have the right form',
        '27: /cells/3/alerts/critical/3/webhook/url: "http://example.com/" does not have the right form: use https',
        '28: /cells/3/alerts/critical/4/webhook: a webhook has one address: use either "url" or "url_env"',
        '29: /cells/3/alerts/critical/5/webhook/url_env: "s3cret!" does not have the right form: use an',
        "30: /cells/3/alerts/critical/6/email/to: has 0 items, fewer than 1: use 1 to 50 e-mail addresses",
        '31: /cells/3/alerts/critical/7/email/form: "form" is not a field here: did you mean "from"?',
        '31: /cells/3/alerts/critical/7/email/to/0: "somebody" does not have the right form: use an e-mail address',
        '32: /cells/4/name: "a-name-of-21-letters-" has 21 characters, more than 20',
        '34: /cells/4/removal: "keep" is not one of "destroy", "retain"',
        '35: /cells/4/termination_protection: "yes" is a string, not true or false',
        '36: /cells/4/tags/: the name "" does not have the right form: use ',
        '36: /cells/4/tags/aws:x: the name "aws:x" does not have the right form: use ',
        "37: /cells/4/log_retention_days: 31 is not one of ",
        "38: /cells/4/embedded/port: 65536 is more than 65535: use 0 to 65535",
        "39: /cells/4/concurrency/provisioned: -1 is less than 0",
        '42: /cells/5/embedded/smtp/from: "bems" does not have the right form: use an e-mail address',
        '42: /cells/5/embedded/smtp/host: "host" is missing: use a mail server\'s host',
        '42: /cells/5/embedded/smtp/password: "password" is not a field here: did you mean "password_env"?',
        "42: /cells/5/embedded/smtp/port: 0 is less than 1: use 1 to 65535",
        '42: /cells/5/embedded/smtp/security: "ssl" is not one of "none", "starttls", "tls"',
        '45: /cells/6/embedded/smtp: a login has two parts: use both "user" and "password_env", or neither',
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("cells: []", "1: /cells: has 0 items, fewer than 1: use a list of 1 to 100 cells"),
        ("cells: {eu: {region: eu-west-1}}", "1: /cells: an object is not a list: use a list of 1 to 100 cells"),
        ("{}", '1: /cells: "cells" is missing: use a list of 1 to 100 cells'),
        ("- name: eu", "1: the file: a list is not an object"),
    ],
)
def test_a_file_without_a_list_of_cells_is_refused(text: str, error: str) -> None:
    assert_errors(read_cells, text, error)


@pytest.mark.parametrize("region", ["eu-west-1", "ap-southeast-2", "us-gov-east-1", "eusc-de-east-1", "us-isob-east-1"])
def test_regions_of_every_partition_are_accepted(region: str) -> None:
    assert read_cells(f"cells: [{{name: a, region: {region}}}]", "x.yaml").cells[0].region == region


def test_a_value_of_the_wrong_type_has_one_error() -> None:
    assert len(errors_of(read_policy, 'stages: {posting: {deadline: "\\ud800"}}')) == 1


def test_intervals_that_grow_are_read() -> None:
    text = """
        critical_amount_from: {EUR: 10000, USD: 12000.50}
        stages:
          posting:
            escalate: {every: 1bd, growth: 1.5}
            overrides: [{when: {buyer: "1000", has_purchase_order: true}, escalate: {every: 2d}}]
          reconciliation: {not_required: [{when: {has_purchase_order: false}}, {when: {vendor: V-1}}]}
    """
    policy = build_policy(read_policy(dedent(text), "x.yaml"), frozenset())
    (rule, ((_, override),)) = (policy.stages["posting"].rule, policy.stages["posting"].overrides)
    assert (str(rule.escalate_every), rule.growth) == ("1bd", Decimal("1.5"))
    assert (str(override.escalate_every), override.growth) == ("2d", Decimal(1))
    assert policy.critical_amounts == {"EUR": 10_000, "USD": Decimal("12000.50")}
    assert policy.match_exemptions == (When(has_purchase_order=False), When(vendor="V-1"))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("stages: {posting: {escalate: {every: soon}}}", '/stages/posting/escalate/every: "soon" is not a duration'),
        ("stages: {posting: {escalate: {every: due}}}", '/stages/posting/escalate/every: "due" counts back'),
        ("stages: {posting: {escalate: {growth: 2}}}", '/stages/posting/escalate/every: "every" is missing'),
        ("stages: {posting: {escalate: 1bd}}", '/stages/posting/escalate: "1bd" is a string, not an object'),
        ("stages: {posting: {escalate: {every: 1bd, growth: 0}}}", "/stages/posting/escalate/growth: "),
        ("stages: {posting: {escalate: {every: 1bd, growth: 11}}}", "/stages/posting/escalate/growth: "),
        (
            "stages: {posting: {escalate: {every: 1bd, growth: 0.5}}}",
            '/stages/posting/escalate/growth: "0.5" does not have the right form: use a number from 1 to 10',
        ),
        (
            "stages: {posting: {escalate: {every: 1bd}, escalate_every: 1bd}}",
            "/stages/posting/escalate_every: escalate_every and escalate are two ways to say one thing: leave one out",
        ),
        (
            "stages: {posting: {overrides: [{when: {buyer: b}, escalate: {every: 1h}, escalate_every: 1h}]}}",
            "/stages/posting/overrides/0/escalate_every: escalate_every and escalate are two ways",
        ),
        ("stages: {posting: {not_required: []}}", '/stages/posting/not_required: "not_required" is not a field here'),
        (
            "stages: {reconciliation: {not_required: [{when: {}}]}}",
            "/stages/reconciliation/not_required/0/when: there is no condition",
        ),
        (
            "stages: {reconciliation: {not_required: [{when: {has_purchase_order: no}}]}}",
            '/stages/reconciliation/not_required/0/when/has_purchase_order: "no" is a string, not true or false',
        ),
        ("critical_amount_from: {EURO: 1}", '/critical_amount_from/EURO: the name "EURO" does not have the right form'),
        ("critical_amount_from: {EUR: much}", '/critical_amount_from/EUR: "much" does not have the right form'),
        ("critical_amount_from: 10000", "/critical_amount_from: 10000 is a number, not an object"),
    ],
)
def test_errors_of_intervals_amounts_and_exemptions_name_their_key(text: str, error: str) -> None:
    assert_errors(read_policy, text, f"1: {error}")


def test_the_number_of_errors_is_bounded() -> None:
    many = "stages:\n  posting:\n    overrides:\n" + "      - {when: {vendor: a}, deadline: x}\n" * 2000
    assert 1 < len(errors_of(read_policy, many)) <= 300


def test_the_commented_keys_of_the_example_are_valid() -> None:
    text, uncommented = re.subn("(?m)^( +)# (?= *(?:- )?[a-z_]+:)", r"\1", EXAMPLE.read_text())
    _, eu, _ = read_cells(text, EXAMPLE.name).cells
    assert uncommented == 16
    assert isinstance(eu.policy, PolicySpec)
    calendar, [override] = eu.policy.calendar, eu.policy.stages.authorization.overrides or ()
    assert (eu.account, calendar.weekend) == ("123456789012", ("saturday", "sunday"))
    assert (calendar.subdivision, calendar.days_on, override.deadline) == ("BY", (date(2026, 5, 5),), "1bd")
    assert eu.embedded.smtp == Smtp(
        "mail.example.com", 587, "starttls", "bems", "BEMS_SMTP_PASSWORD", "bems@example.com"
    )


def test_the_committed_cells_are_cells_of_the_example() -> None:
    """Whatever tests the example, such as a synthesis, tests them too."""
    committed, shown = (read_cells(path.read_text(), path.name).cells for path in (COMMITTED, EXAMPLE))
    assert len(committed) > 1
    assert [cell for cell in committed if cell not in shown] == []


def test_any_account_can_deploy_the_first_of_the_committed_cells() -> None:
    first = read_cells(COMMITTED.read_text(), COMMITTED.name).cells[0]
    assert (first.delivery, first.time_series) == ("standard", "s3tables")
    # A new account has ten instances and can reserve none; the template has no parameters.
    assert (first.concurrency.account, first.concurrency.reserved) == (10, False)
    assert (first.account, first.alerts, first.concurrency.provisioned) == (None, AlertsConfig(), 0)
    for guide in ("README.md", "docs/deployment.md"):
        text = (ROOT / guide).read_text()
        assert re.findall(r"deploy --app cdk\.out (\S+)", text)[0] == f"bems-{first.name}"


def test_the_other_cells_of_the_example_are_two_variants() -> None:
    _, eu, us = read_cells(EXAMPLE.read_text(), EXAMPLE.name).cells
    assert (eu.region, eu.delivery, eu.time_series) == ("eu-west-1", "fifo", "timestream")
    assert (us.region, us.delivery, us.time_series) == ("us-east-1", "standard", "s3tables")
    assert isinstance(eu.policy, PolicySpec)
    assert isinstance(us.policy, PolicySpec)
    assert us.policy.calendar.timezone == "America/New_York"
    written_out = build_policy(PolicySpec(eu.policy.calendar, eu.policy.stages), frozenset())
    assert written_out.stages == build_policy(PolicySpec(), frozenset()).stages
    assert (eu.policy.waits_from, eu.policy.identity) == (PolicySpec().waits_from, PolicySpec().identity)
    assert eu.limits == Limits()
    assert (replace(eu.concurrency, provisioned=0), eu.concurrency.provisioned) == (Concurrency(), 2)


words = st.sampled_from(
    ["cells", "stages", "posting", "name", "overrides", "when", "deadline", "3bd", "NO", "1", "~", "eu"]
)
marks = st.sampled_from(
    [": ", "\n", "\n  ", "\n    ", "- ", "{", "}", "[", "]", ", ", "&a ", "*a", "? ", "!!str ", "|\n", "\t", "'", '"']
)
texts = st.lists(words | marks | st.text(max_size=2), max_size=40).map("".join)


@settings(derandomize=True, max_examples=500)
@given(texts)
@example("? - a\n: - b\n")
def test_any_text_is_read_or_refused_with_a_line_in_it(text: str) -> None:
    for read in (read_policy, read_cells):
        refused = config_error(read, text)
        if refused is not None:
            assert refused.errors
            assert all(1 <= error.line <= len(text.splitlines()) + 1 for error in refused.errors)
            assert all("\n" not in error.detail for error in refused.errors)
