"""Destinations of alerts, built from `cells.yaml` and secrets in environment variables."""

import base64
import logging
from collections.abc import Mapping
from email.headerregistry import Address

import msgspec
from urllib3.util import parse_url

from bems.embedded.alerting.delivery import Destination
from bems.embedded.alerting.mail import EmailDestination
from bems.embedded.alerting.webhook import WebhookDestination
from bems.tracker import cells
from bems.tracker.actions import SEVERITIES, Severity
from bems.tracker.alert_messages import headline, urgency
from bems.tracker.control_totals import AlertMessage, CompletenessAlert

_KEY_PREFIX = "whsec_"
_QUOTES = "\"'`\u2018\u2019\u201c\u201d"

MIN_KEY_BYTES, MAX_KEY_BYTES = 24, 64
"""Size of a signing key: 192 to 512 bits, as the Standard Webhooks specification requires."""

_LOG_LEVELS = {"critical": logging.ERROR, "warning": logging.WARNING, "resolved": logging.INFO}

alerts_log = logging.getLogger("bems.alerts")


class LogDestination:
    """A Destination that writes one line per alert to the logger `bems.alerts`, at level WARNING or ERROR.

    A line that says that alerts are resolved has the level INFO.
    """

    key = "log"

    def send(self, alert: AlertMessage) -> None:
        level = _LOG_LEVELS[urgency(alert)]
        about = ""
        if not isinstance(alert, CompletenessAlert):
            about = f", {alert.facts.amount:f} {alert.facts.currency} of vendor {alert.facts.vendor.id}"
        alerts_log.log(level, "%s: %s%s, alert id %s", urgency(alert), headline(alert), about, alert.id)


def build_destinations(
    alerts: cells.AlertsConfig, embedded: cells.Embedded, cell: str, environment: Mapping[str, str]
) -> dict[Severity, list[Destination]]:
    """Return the destinations of a cell by severity. Equal entries share one object, across severities too.

    Raises ValueError if a secret is missing in the environment or malformed, if e-mail has no server or sender, or if
    two entries contradict each other. The message is one line that names the cell and the key, and holds no secret.
    """
    builder = _Builder(embedded, cell, environment)
    return {severity: builder.build_all(f"alerts/{severity}", getattr(alerts, severity)) for severity in SEVERITIES}


class _Builder:
    def __init__(self, embedded: cells.Embedded, cell: str, environment: Mapping[str, str]) -> None:
        self._smtp = embedded.smtp
        self._cell = cell
        self._environment = environment
        self._built: dict[str, tuple[Destination, object]] = {}

    def build_all(self, place: str, listed: tuple[cells.DestinationConfig, ...]) -> list[Destination]:
        built = {}
        for index, one in enumerate(listed):
            destination = self._build(f"{place}/{index}", one)
            built[destination.key] = destination
        return list(built.values())

    def _build(self, place: str, config: cells.DestinationConfig) -> Destination:
        if config.webhook:
            destination, settings = self._build_webhook(f"{place}/webhook", config.webhook)
        elif config.email:
            destination, settings = self._build_email(f"{place}/email", config.email)
        else:
            destination, settings = LogDestination(), None
        first, first_settings = self._built.setdefault(destination.key, (destination, settings))
        # Compare effective settings: neither the order of addresses matters nor where the sender is configured.
        if first_settings != settings:
            raise self._config_error(
                place, f"{destination.key} is already listed with another key or sender: use the same"
            )
        return first

    def _build_webhook(self, place: str, config: cells.WebhookConfig) -> tuple[Destination, object]:
        """Return the destination and its signing key."""
        if config.url_env:
            where, holder, name = f"{place}/url_env", config.url_env, f"${config.url_env}"
            url = self._read_secret(where, config.url_env)
        else:
            where, holder, name = f"{place}/url", "url", config.url or ""
            url = name
        if not _is_postable_url(url):
            raise self._config_error(where, f"the value of {holder} is not an https URL")
        signing = None
        if config.secret_env:
            signing = self._read_signing_key(f"{place}/secret_env", config.secret_env)
        return WebhookDestination(f"webhook {name}", url, signing, self._cell), signing

    def _read_signing_key(self, place: str, variable: str) -> bytes:
        """Read and decode a signing key.

        Standard Webhooks serializes a key as base64 with the prefix `whsec_`; any other text is used as it is. Quotes
        or whitespace from a shell or an env file are rejected here, because they would cause nothing but signatures
        that the receiver rejects.
        """
        secret = self._read_secret(place, variable)
        subject = f"the value of {variable}"
        if any(character.isspace() or not character.isprintable() for character in secret):
            raise self._config_error(place, f"{subject} contains whitespace or control characters: remove them")
        if any(quote in secret for quote in _QUOTES):
            raise self._config_error(place, f"{subject} contains quotation marks: remove them")
        if not secret.startswith(_KEY_PREFIX):
            if _KEY_PREFIX in secret.lower():
                raise self._config_error(
                    place, f"{subject} contains {_KEY_PREFIX} but does not begin with it: put it first"
                )
            key = secret.encode()
            if len(key) < MIN_KEY_BYTES:
                raise self._config_error(place, f"{subject} has {len(key)} bytes: a key needs at least {MIN_KEY_BYTES}")
            return key
        encoded = secret.removeprefix(_KEY_PREFIX)
        try:
            key = base64.b64decode(encoded, validate=True)
        except ValueError:
            key = b""
        if not key:
            raise self._config_error(place, f"{subject} begins with {_KEY_PREFIX} but no valid base64 follows")
        if not MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
            allowed = f"Standard Webhooks requires {MIN_KEY_BYTES} to {MAX_KEY_BYTES}"
            raise self._config_error(place, f"{subject} has {len(key)} bytes after {_KEY_PREFIX}: {allowed}")
        return key

    def _build_email(self, place: str, config: cells.EmailConfig) -> tuple[Destination, object]:
        """Return the destination and its sender."""
        smtp = self._smtp
        if smtp is None:
            raise self._config_error(place, "e-mail needs a mail server: add embedded/smtp")
        sender = config.sender or smtp.sender
        if sender is None:
            raise self._config_error(place, "the e-mail has no sender: add from here, or to embedded/smtp")
        to = sorted(set(config.to))
        for address in (sender, *to):
            try:
                Address(addr_spec=address)
            except Exception:  # The standard library's parser raises many types of exceptions.
                raise self._config_error(place, f"{address} is not a valid address in a mail header") from None
        password = None
        if smtp.user is not None and smtp.password_env is not None:
            password = self._read_secret("embedded/smtp/password_env", smtp.password_env)
            if not (smtp.user + password).isascii():
                raise self._config_error("embedded/smtp", "user and password must be ASCII")
        return EmailDestination(f"email {', '.join(to)}", to, sender, smtp, password, self._cell), sender

    def _read_secret(self, place: str, variable: str) -> str:
        secret = self._environment.get(variable, "")
        if not secret:
            raise self._config_error(place, f"the environment variable {variable} is not set")
        return secret

    def _config_error(self, place: str, detail: str) -> ValueError:
        return ValueError(f"cell {self._cell}: /{place}: {detail}")


def _is_postable_url(url: str) -> bool:
    """Return whether the URL is valid and has a host. urllib3's error is dropped because it quotes the URL, which may
    be secret."""
    try:
        return bool(parse_url(msgspec.convert(url, cells.Url)).host)
    except (msgspec.ValidationError, ValueError):
        return False
