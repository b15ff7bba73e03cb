"""Destinations: where `cells.yaml` has alerts sent, with the secrets that the environment holds."""

import base64
import logging
from collections.abc import Mapping
from email.headerregistry import Address

import msgspec
from urllib3.util import parse_url

from bems.embedded.alerting.delivery import Destination
from bems.embedded.alerting.mail import Email
from bems.embedded.alerting.webhook import Webhook
from bems.tracker import cells
from bems.tracker.actions import SEVERITIES, Alert, Severity
from bems.tracker.alert_messages import headline

_PREFIX = "whsec_"
_QUOTES = "\"'`\u2018\u2019\u201c\u201d"

MIN_KEY_BYTES, MAX_KEY_BYTES = 24, 64
"""Of a key that signs: 192 to 512 bits, as Standard Webhooks says."""

alerts_log = logging.getLogger("bems.alerts")


class Log:
    """A Destination: a line in the log `bems.alerts`, of the level warning or error."""

    key = "log"

    def send(self, alert: Alert) -> None:
        level = logging.ERROR if alert.severity == "critical" else logging.WARNING
        facts = alert.facts
        about = f"{facts.amount:f} {facts.currency} of vendor {facts.vendor.id}"
        alerts_log.log(level, "%s: %s, %s, alert id %s", alert.severity, headline(alert), about, alert.id)


def build(
    alerts: cells.Alerts, embedded: cells.Embedded, cell: str, environment: Mapping[str, str]
) -> dict[Severity, list[Destination]]:
    """The destinations of a cell by severity. One that is listed under both, or twice, is one and the same.

    ValueError, in one line, where a secret is missing in the environment or of a wrong form, e-mail has no server or
    sender, or two entries contradict each other; it names the cell and the key, and no secret.
    """
    builder = _Builder(embedded, cell, environment)
    return {severity: builder.build_all(f"alerts/{severity}", getattr(alerts, severity)) for severity in SEVERITIES}


class _Builder:
    def __init__(self, embedded: cells.Embedded, cell: str, environment: Mapping[str, str]) -> None:
        self._smtp = embedded.smtp
        self._cell = cell
        self._environment = environment
        self._built: dict[str, tuple[Destination, object]] = {}

    def build_all(self, place: str, listed: tuple[cells.Destination, ...]) -> list[Destination]:
        built = {}
        for index, one in enumerate(listed):
            destination = self._build(f"{place}/{index}", one)
            built[destination.key] = destination
        return list(built.values())

    def _build(self, place: str, config: cells.Destination) -> Destination:
        if config.webhook:
            destination, using = self._webhook(f"{place}/webhook", config.webhook)
        elif config.email:
            destination, using = self._email(f"{place}/email", config.email)
        else:
            destination, using = Log(), None
        first, used = self._built.setdefault(destination.key, (destination, using))
        # What is in effect, not what is written: the order of addresses does not matter, nor who says the sender.
        if used != using:
            raise self._mistake(place, f"{destination.key} is listed before, with another key or sender: use the same")
        return first

    def _webhook(self, place: str, config: cells.Webhook) -> tuple[Destination, object]:
        """The destination, and the key that it signs with."""
        if config.url_env:
            where, holder, name = f"{place}/url_env", config.url_env, f"${config.url_env}"
            url = self._secret(where, config.url_env)
        else:
            where, holder, name = f"{place}/url", "url", config.url or ""
            url = name
        if not _can_be_posted_to(url):
            raise self._mistake(where, f"what {holder} holds is no https URL")
        signing = None
        if config.secret_env:
            signing = self._signing_key(f"{place}/secret_env", config.secret_env)
        return Webhook(f"webhook {name}", url, signing, self._cell), signing

    def _signing_key(self, place: str, variable: str) -> bytes:
        """The spec serializes a key as base64 behind `whsec_`; any other text is a key as it stands. What a shell, an
        editor or a file of variables left in it would be no mistake that anybody hears of, but a wrong signature."""
        secret = self._secret(place, variable)
        what = f"what {variable} holds"
        if any(character.isspace() or not character.isprintable() for character in secret):
            raise self._mistake(place, f"{what} has blanks or control characters: leave them out")
        if any(quote in secret for quote in _QUOTES):
            raise self._mistake(place, f"{what} has quotation marks: leave them out")
        if not secret.startswith(_PREFIX):
            if _PREFIX in secret.lower():
                raise self._mistake(place, f"{what} has {_PREFIX} elsewhere than at its beginning: begin with it")
            key = secret.encode()
            if len(key) < MIN_KEY_BYTES:
                raise self._mistake(place, f"{what} has {len(key)} bytes: a key has at least {MIN_KEY_BYTES}")
            return key
        encoded = secret.removeprefix(_PREFIX)
        try:
            key = base64.b64decode(encoded, validate=True)
        except ValueError:
            key = b""
        if not key:
            raise self._mistake(place, f"{what} begins with {_PREFIX}, but no base64 follows")
        if not MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
            allowed = f"a key of Standard Webhooks has {MIN_KEY_BYTES} to {MAX_KEY_BYTES}"
            raise self._mistake(place, f"{what} has {len(key)} bytes behind {_PREFIX}: {allowed}")
        return key

    def _email(self, place: str, config: cells.Email) -> tuple[Destination, object]:
        """The destination, and its sender."""
        smtp = self._smtp
        if smtp is None:
            raise self._mistake(place, "e-mail needs a mail server: add embedded/smtp")
        sender = config.sender or smtp.sender
        if sender is None:
            raise self._mistake(place, "the e-mail has no sender: add from here, or to embedded/smtp")
        to = sorted(set(config.to))
        for address in (sender, *to):
            try:
                Address(addr_spec=address)
            except Exception:  # The standard library's parser raises whatever it comes upon.
                raise self._mistake(place, f"{address} is no address that mail headers take") from None
        password = None
        if smtp.user is not None and smtp.password_env is not None:
            password = self._secret("embedded/smtp/password_env", smtp.password_env)
            if not (smtp.user + password).isascii():
                raise self._mistake("embedded/smtp", "user and password may only have ASCII characters")
        return Email(f"email {', '.join(to)}", to, sender, smtp, password, self._cell), sender

    def _secret(self, place: str, variable: str) -> str:
        secret = self._environment.get(variable, "")
        if not secret:
            raise self._mistake(place, f"the environment variable {variable} is not set")
        return secret

    def _mistake(self, place: str, detail: str) -> ValueError:
        return ValueError(f"cell {self._cell}: /{place}: {detail}")


def _can_be_posted_to(url: str) -> bool:
    """Whether it is a URL, with a host and a port that can be. What urllib3 says of one that is none has it in it, and
    so maybe a secret."""
    try:
        return bool(parse_url(msgspec.convert(url, cells.Url)).host)
    except (msgspec.ValidationError, ValueError):
        return False
