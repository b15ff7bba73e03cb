"""Destinations: what each sends to a real receiver, how it handles responses, and how it is built."""

import asyncio
import base64
import email
import hashlib
import hmac
import json
import logging
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal
from email.message import EmailMessage
from email.policy import default
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from msgspec import structs

from bems.embedded.alerting import destinations
from bems.embedded.alerting import mail as mail_module
from bems.embedded.alerting.delivery import Destination, NotDelivered
from bems.embedded.alerting.destinations import LogDestination, build_destinations
from bems.embedded.alerting.mail import EmailDestination
from bems.embedded.alerting.webhook import MAX_RETRY_AFTER, Timeouts, WebhookDestination
from bems.tracker import cells
from bems.tracker.actions import Alert
from bems.tracker.alert_messages import headline, summary_line
from bems.tracker.contract import Facts, Source, Vendor
from bems.tracker.instants import DAY, MINUTE, SECOND, parse
from tests.tracker.samples import NOW

FACTS = Facts(Decimal("1250.00"), "EUR", Vendor("V-42", "Acme GmbH", "DE", "gold"), Source("sap-ecc"))
ALERT = Alert("a1b2c3", "INV-1", "stuck", "posting", "critical", 3, NOW, NOW + DAY, NOW + DAY, FACTS)
SHORT_TIMEOUTS = Timeouts(connect=0.2, read=0.2, total=0.4)
LONG_TIMEOUTS = Timeouts(connect=2, read=2, total=2)
"""For receivers that send something before the timeout, even on a slow machine."""

SECRET = "n0b0dy-kn0ws-what-th1s-1s"


# -- receivers


class Receiver:
    """A minimal HTTP server that records each request. `script` is the response, or a function that sends it."""

    def __init__(self, script: Callable[[socket.socket], None] | bytes, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.requests: list[bytes] = []
        self._tls = tls
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connected, _ = self._socket.accept()
            except OSError:
                return
            with connected, suppress(OSError):
                if self._tls:
                    with self._tls.wrap_socket(connected, server_side=True) as secured:
                        self._converse(secured)
                else:
                    self._converse(connected)

    def _converse(self, connected: socket.socket) -> None:
        with connected.makefile("rb") as file:
            head = b"".join(takewhile(lambda line: line != b"\r\n", file))
            length = re.search(rb"(?i)content-length: (\d+)", head)
            if length is None:
                return
            self.requests.append(head + b"\r\n" + file.read(int(length[1])))
        if isinstance(self.script, bytes):
            connected.sendall(self.script)
        else:
            self.script(connected)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@contextmanager
def receiver(script: Callable[[socket.socket], None] | bytes, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    one = Receiver(script, tls)
    try:
        yield one
    finally:
        one.close()


def answer(status: int, *headers: str, body: str = "") -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", body]).encode()


def failure(destination: Destination, alert: Alert = ALERT) -> NotDelivered:
    with pytest.raises(NotDelivered) as caught:
        destination.send(alert)
    return caught.value


def webhook(port: int, secret: bytes | None = None, **options: Any) -> WebhookDestination:
    return WebhookDestination("webhook x", f"http://127.0.0.1:{port}/hooks/{SECRET}?t=1", secret, "eu-west", **options)


# -- the webhook


def test_a_webhook_is_a_signed_post() -> None:
    with receiver(answer(204)) as server:
        webhook(server.port, b"key", now=lambda: NOW + 1).send(ALERT)
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines if "signature" not in line)
    assert first == f"POST /hooks/{SECRET}?t=1 HTTP/1.1"
    assert headers["content-type"] == "application/json"
    assert headers["webhook-id"] == "a1b2c3"
    assert headers["webhook-timestamp"] == str(NOW // SECOND)
    (signature,) = [line for line in lines if line.lower().startswith("webhook-signature: ")]
    expected = hmac.new(b"key", f"a1b2c3.{NOW // SECOND}.".encode() + body, hashlib.sha256).digest()
    assert signature.split(": ")[1] == "v1," + base64.b64encode(expected).decode()
    assert json.loads(body) == {
        "id": "a1b2c3",
        "invoice_id": "INV-1",
        "kind": "stuck",
        "detail": None,
        "stage": "posting",
        "severity": "critical",
        "step": 3,
        "last": False,
        "waiting_since": "2026-03-02T09:00:00Z",
        "due_at": "2026-03-03T09:00:00Z",
        "raised_at": "2026-03-03T09:00:00Z",
        "event_id": None,
        "incident": ALERT.incident,
        "open_stages": [],
        "negative_outcomes": {},
        "cell": "eu-west",
        "amount": "1250.00",
        "currency": "EUR",
        "vendor": {"id": "V-42", "name": "Acme GmbH", "country": "DE", "tier": "gold"},
        "text": (
            "critical: INV-1 has waited for posting since 2026-03-02 (alert 3), 1250.00 EUR of Acme GmbH, cell eu-west"
        ),
    }


def test_without_a_key_a_webhook_is_not_signed() -> None:
    with receiver(answer(200)) as server:
        webhook(server.port).send(ALERT)
    assert b"webhook-id" in server.requests[0].lower()
    assert b"webhook-signature" not in server.requests[0].lower()


@pytest.mark.parametrize(
    ("response", "message", "outage"),
    [
        (answer(500), "answered 500 Internal Server Error", True),
        (answer(503), "answered 503 Service Unavailable", True),
        (answer(599), "answered 599", True),
        (answer(408), "answered 408 Request Timeout", True),
        (answer(425), "answered 425 Too Early", True),
        (answer(429), "answered 429 Too Many Requests", True),
        (answer(400), "answered 400 Bad Request", False),
        (answer(404, body=f"Cannot POST /hooks/{SECRET}"), "answered 404 Not Found", False),
        (answer(410), "answered 410 Gone", False),
        (answer(302, f"location: /{SECRET}"), "answered 302 Found", False),
        (answer(308, "location: /"), "answered 308 Permanent Redirect", False),
        (b"", "the connection broke off (RemoteDisconnected)", True),
        (b"SSH-2.0-" + SECRET.encode() + b"\r\n", "the connection broke off (BadStatusLine)", True),
    ],
)
def test_a_response_other_than_2xx_is_a_failure(
    response: bytes, message: str, outage: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with receiver(response) as server:
        failed = failure(webhook(server.port))
        assert (str(failed), failed.outage) == (message, outage)
    assert len(server.requests) == 1
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("header", "pause"),
    [
        ("retry-after: 120", 2 * MINUTE),
        ("Retry-After: 0", 0),
        ("retry-after: 99999999999999999999", MAX_RETRY_AFTER),
        ("retry-after: Mon, 02 Mar 2026 09:05:00 GMT", 5 * MINUTE),
        ("retry-after: Mon, 02 Mar 2026 08:00:00 GMT", 0),
        ("retry-after: Tue, 03 Mar 2026 09:00:00 GMT", MAX_RETRY_AFTER),
        ("retry-after: soon", None),
        ("retry-after: -5", None),
        ("x: y", None),
    ],
)
def test_a_receiver_may_ask_for_a_pause_of_an_hour_at_most(header: str, pause: int | None) -> None:
    with receiver(answer(429, header)) as server:
        assert failure(webhook(server.port, now=lambda: NOW)).retry_after == pause


def test_the_rest_of_a_response_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("urllib3").setLevel(logging.DEBUG)
    broken = b"HTTP/1.1 200 OK\r\ncontent-length: 9000000\r\nno header at all\r\n: \r\n\r\n"
    with receiver(broken + b"x" * 100_000) as server:
        webhook(server.port).send(ALERT)
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("begins", "why"),
    [
        (b"", "no response within 0.2 s"),
        (b"HTTP/1.1 ", "the request took longer than 0.4 s"),
        (b"HTTP/1.1 503 No\r\nx: ", "answered 503 Service Unavailable"),
        (b"HTTP/1.1 200 OK\r\nx: ", None),
        (b"HTTP/1.1 200 OK\r\n\r\n", None),
    ],
)
def test_a_receiver_that_hangs_or_trickles_is_cut_off_in_time(begins: bytes, why: str | None) -> None:
    """A status line that was received before the timeout counts as the response."""
    ended = threading.Event()

    def trickle(connected: socket.socket) -> None:
        connected.sendall(begins)
        while not ended.wait(0.02):
            connected.sendall(b"x" if begins else b"")

    with receiver(trickle) as server:
        try:
            timeouts = LONG_TIMEOUTS if b"\r\n" in begins else SHORT_TIMEOUTS
            if why is None:
                webhook(server.port, timeouts=timeouts).send(ALERT)
            else:
                failed = failure(webhook(server.port, timeouts=timeouts))
                assert (str(failed), failed.outage) == (why, True)
        finally:
            ended.set()


def test_an_unreachable_receiver_is_an_outage() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    refused = failure(webhook(port))
    assert (str(refused), refused.outage) == ("cannot connect: Connection refused", True)
    unknown = failure(WebhookDestination("webhook x", "https://nowhere.invalid/", None, "eu-west"))
    assert (str(unknown), unknown.outage) == ("the host name cannot be resolved", True)


def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    return context


@pytest.mark.parametrize("url", ["http://[::1]:1/", "https://[::1]/x", "http://127.0.0.1:1"])
def test_ipv6_hosts_and_default_ports(url: str) -> None:
    """An IPv6 host is in brackets; without a port, the scheme's default applies."""
    if "::1" in url:
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError as error:
            pytest.skip(f"THERE IS NO IPv6 here: {error.strerror}")
    assert "Connection refused" in str(failure(WebhookDestination("webhook x", url, None, "eu-west")))


def test_certificates_are_verified(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver(answer(200), server_context(certificate)) as server:
        destination = WebhookDestination("webhook x", f"https://127.0.0.1:{server.port}/{SECRET}", None, "eu-west")
        untrusted = failure(destination)
        assert (str(untrusted), untrusted.outage) == ("the certificate is not trusted (OpenSSL error 18)", True)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
        destination.send(ALERT)
    assert len(server.requests) == 1


def test_plain_http_where_tls_is_expected_is_an_outage() -> None:
    with receiver(answer(200)) as server:
        failed = failure(
            WebhookDestination(
                "webhook x", f"https://127.0.0.1:{server.port}/", None, "eu-west", timeouts=SHORT_TIMEOUTS
            )
        )
        assert failed.outage


# -- e-mail


class FakeMailbox:
    """Handler of a mail server. `refuses` maps recipients to reply codes; `data` is the reply to DATA."""

    def __init__(self, refuses: dict[str, int] | None = None, data: str = "250 OK") -> None:
        self.refuses = refuses or {}
        self.data = data
        self.mails: list[tuple[list[str], EmailMessage, bytes]] = []
        self.logins: list[tuple[bytes, bytes]] = []

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        del server, session, options
        if address in self.refuses:
            return f"{self.refuses[address]} {SECRET}"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        del server, session
        content = envelope.content
        assert isinstance(content, bytes)
        if self.data.startswith("250"):
            message = email.message_from_bytes(content, policy=default)
            assert isinstance(message, EmailMessage)
            self.mails.append((list(envelope.rcpt_tos), message, content))
        return self.data

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, login: Any) -> AuthResult:
        del server, session, envelope, mechanism
        assert isinstance(login, LoginPassword)
        self.logins.append((login.login, login.password))
        return AuthResult(success=login.password == SECRET.encode(), handled=False, message=f"535 not {SECRET}")


class MailServer(Controller):
    """A mail server on a free port."""

    def _trigger_server(self) -> None:
        assert isinstance(self.server, asyncio.Server)
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]


@contextmanager
def mail_server(mailbox: FakeMailbox, **options: Any) -> Iterator[cells.Smtp]:
    controller = MailServer(mailbox, hostname="127.0.0.1", port=0, **options)
    controller.start()
    try:
        yield cells.Smtp("127.0.0.1", controller.port, "none")
    finally:
        controller.stop()


def mail(server: cells.Smtp, *to: str, password: str | None = None, **options: Any) -> EmailDestination:
    to = to or ("a@example.com", "b@example.com")
    return EmailDestination(
        "email x", to, "bems@example.org", server, password, "eu-west", now=lambda: NOW + 1, **options
    )


def test_a_mail_has_the_facts() -> None:
    mailbox = FakeMailbox()
    with mail_server(mailbox) as server:
        mail(server).send(ALERT)
        mail(server).send(ALERT)
    (to, message, _), (_, again, _) = mailbox.mails
    assert to == ["a@example.com", "b@example.com"]
    assert message["Subject"] == "[BEMS eu-west] critical: INV-1 has waited for posting since 2026-03-02 (alert 3)"
    assert (message["From"], message["To"]) == ("bems@example.org", "a@example.com, b@example.com")
    assert message["Date"] == "Mon, 02 Mar 2026 09:00:00 +0000"
    assert message["X-BEMS-Alert-Id"] == "a1b2c3"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Message-ID"] == again["Message-ID"]
    assert message["Message-ID"].startswith("<a1b2c3.")
    assert message.get_content_type() == "text/plain"
    assert message.get_content().replace("\r\n", "\n") == (
        "INV-1 has waited for posting since 2026-03-02 (alert 3)\n\n"
        "Invoice:       INV-1\n"
        "Amount:        1250.00 EUR\n"
        "Vendor:        Acme GmbH (V-42, DE, gold)\n"
        "Stage:         posting\n"
        "Severity:      critical\n"
        "Waiting since: 2026-03-02T09:00:00Z\n"
        "Was due:       2026-03-03T09:00:00Z\n"
        "Raised:        2026-03-03T09:00:00Z\n"
        "Cell:          eu-west\n"
        "Alert:         a1b2c3 (messages with the same id are one alert)\n"
    )


RESOLVED = structs.replace(ALERT, id="r1", kind="resolved", detail="posting is posted")


def test_a_mail_of_a_resolution_does_not_look_like_an_alert() -> None:
    mailbox = FakeMailbox()
    with mail_server(mailbox) as server:
        mail(server).send(RESOLVED)
    ((_, message, _),) = mailbox.mails
    assert message["Subject"] == "[BEMS eu-west] resolved: earlier alerts of INV-1 are resolved: posting is posted"
    text = message.get_content().replace("\r\n", "\n")
    assert text.startswith("earlier alerts of INV-1 are resolved: posting is posted\n\n")
    assert "Resolved:      2026-03-03T09:00:00Z\n" in text and "Was due" not in text


@pytest.mark.parametrize(
    ("alert", "level", "first_word"),
    [
        (ALERT, logging.ERROR, "critical"),
        (structs.replace(ALERT, severity="warning"), logging.WARNING, "warning"),
        (RESOLVED, logging.INFO, "resolved"),
    ],
)
def test_an_alert_is_logged_by_its_urgency(
    alert: Alert, level: int, first_word: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    LogDestination().send(alert)
    (record,) = caplog.records
    assert (record.levelno, record.getMessage().partition(":")[0]) == (level, first_word)


@pytest.mark.parametrize(
    ("invoice_id", "shown"),
    [
        ("x" * 128, "x" * 128),
        ("=?utf-8?q?=0d=0aBcc:_x@example.com?=", "=.?utf-8?q?=0d=0aBcc:_x@example.com?="),
        (
            "a=?utf-8?b?DQpCY2M6IHhAZXhhbXBsZS5jb20=?=" + "x" * 80,
            "a=.?utf-8?b?DQpCY2M6IHhAZXhhbXBsZS5jb20=.?=" + "x" * 80,
        ),
        ("=" * 60 + "?" * 60, "=" * 60 + "." + "?" * 60),
    ],
)
def test_text_of_a_sender_cannot_add_headers_or_lines(invoice_id: str, shown: str) -> None:
    """Ids are printable ASCII; names may contain any characters."""
    mailbox = FakeMailbox()
    vendor = Vendor("V-1", "Evil\r\nBcc: x@example.com\r\n.\r\nQUIT\u2028\u0085Ünïcode \u202egnp", tier="a\r\nb")
    evil = structs.replace(ALERT, invoice_id=invoice_id, facts=structs.replace(FACTS, vendor=vendor))
    with mail_server(mailbox) as server:
        mail(server).send(evil)
    ((to, message, content),) = mailbox.mails
    assert to == ["a@example.com", "b@example.com"]
    assert not any(line.lower().startswith(b"bcc") for line in content.split(b"\r\n"))
    assert message["Bcc"] is None
    assert message["Subject"] == f"[BEMS eu-west] critical: {shown} has waited for posting since 2026-03-02 (alert 3)"
    text = message.get_content()
    assert "Vendor:        Evil  Bcc: x@example.com  .  QUIT  Ünïcode  gnp (V-1, a  b)" in text.splitlines()
    assert len(text.splitlines()) == 12


def test_login_succeeds_or_is_refused_without_logging_secrets(
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    # The fake server logs every line.
    monkeypatch.setattr(logging.getLogger("mail.log"), "disabled", True)
    mailbox = FakeMailbox()
    context = server_context(certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    with mail_server(mailbox, authenticator=mailbox.authenticate, tls_context=context, auth_required=True) as plain:
        server = structs.replace(plain, security="starttls", user="bems", password_env="PW")
        mail(server, password=SECRET).send(ALERT)
        refused = failure(mail(server, password="wrong"))
        without = failure(mail(plain))
    assert len(mailbox.mails) == 1
    assert (b"bems", SECRET.encode()) in mailbox.logins
    assert (str(refused), refused.outage) == ("the mail server refuses the login (535)", True)
    assert (str(without), without.outage) == ("the mail server refuses the sender bems@example.org (530)", True)
    output = caplog.text + "".join(capfd.readouterr())
    secrets = SECRET, to_base64(SECRET), to_base64(f"\0bems\0{SECRET}"), to_base64("wrong"), to_base64("\0bems\0wrong")
    assert not [secret for secret in secrets if secret in output]


def to_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_mail_with_implicit_tls(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mailbox = FakeMailbox()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    with mail_server(mailbox, ssl_context=server_context(certificate)) as plain:
        mail(structs.replace(plain, security="tls")).send(ALERT)
        monkeypatch.delenv("SSL_CERT_FILE")
        untrusted = failure(mail(structs.replace(plain, security="tls")))
    assert len(mailbox.mails) == 1
    assert str(untrusted) == "the mail server's certificate is not trusted (OpenSSL error 18)"


def test_no_mail_is_sent_in_the_clear_if_the_server_lacks_starttls() -> None:
    mailbox = FakeMailbox()
    with mail_server(mailbox) as plain:
        failed = failure(mail(structs.replace(plain, security="starttls")))
    assert failed.outage
    assert "lacks STARTTLS" in str(failed)
    assert mailbox.mails == []


def test_a_permanently_refused_recipient_is_logged_and_does_not_fail_the_delivery(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mailbox = FakeMailbox({"b@example.com": 550})
    with mail_server(mailbox) as server:
        mail(server).send(ALERT)
    assert [to for to, *_ in mailbox.mails] == [["a@example.com"]]
    assert "the mail server refuses b@example.com (550); the others accepted alert a1b2c3" in caplog.text
    assert SECRET not in caplog.text


def test_only_a_temporarily_refused_recipient_is_retried() -> None:
    mailbox = FakeMailbox({"b@example.com": 451})
    with mail_server(mailbox) as server:
        destination = mail(server)
        for _ in range(2):
            failed = failure(destination)
            assert (str(failed), failed.outage) == ("the mail server refuses b@example.com (451)", False)
        mailbox.refuses = {}
        destination.send(ALERT)
    assert [to for to, *_ in mailbox.mails] == [["a@example.com"], ["b@example.com"]]


def test_partial_deliveries_are_remembered_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail_module, "MAX_PARTIAL_DELIVERIES", 2)
    mailbox = FakeMailbox({"b@example.com": 451})
    with mail_server(mailbox) as server:
        destination = mail(server)
        for id in ("1", "2", "3"):
            failure(destination, structs.replace(ALERT, id=id))
        mailbox.refuses, mailbox.mails = {}, []
        for id in ("3", "1"):
            destination.send(structs.replace(ALERT, id=id))
    assert [to for to, *_ in mailbox.mails] == [["b@example.com"], ["a@example.com", "b@example.com"]]
    assert len(destination._partial_deliveries) == 1


def test_a_mail_whose_recipients_are_all_refused_is_not_delivered() -> None:
    mailbox = FakeMailbox({"a@example.com": 550, "b@example.com": 451})
    with mail_server(mailbox) as server:
        failed = failure(mail(server))
    assert failed.outage
    assert str(failed) == "the mail server refuses a@example.com (550), b@example.com (451)"


@pytest.mark.parametrize(
    ("reply", "error", "outage"),
    [
        ("554 spam " + SECRET, "the mail server refuses the message (554)", False),
        ("452 full", "the mail server answers 452", True),
    ],
)
def test_a_refused_message_is_not_delivered(reply: str, error: str, outage: bool) -> None:
    with mail_server(FakeMailbox(data=reply)) as server:
        failed = failure(mail(server))
    assert (str(failed), failed.outage) == (error, outage)


def test_an_unreachable_or_hanging_mail_server_is_an_outage() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = cells.Smtp("127.0.0.1", silent.getsockname()[1], "none")
        hanging = failure(mail(server, timeout=0.1))
    refused = failure(mail(server))
    assert (str(hanging), hanging.outage) == ("the mail server does not reply within 0.1 s", True)
    assert (str(refused), refused.outage) == ("the mail server cannot be reached: Connection refused", True)


# -- the log, and the texts


def test_the_log_has_a_line_at_the_level_of_the_severity(caplog: pytest.LogCaptureFixture) -> None:
    LogDestination().send(ALERT)
    LogDestination().send(structs.replace(ALERT, severity="warning"))
    assert [(record.name, record.levelname) for record in caplog.records] == [
        ("bems.alerts", "ERROR"),
        ("bems.alerts", "WARNING"),
    ]
    assert caplog.messages[0] == (
        "critical: INV-1 has waited for posting since 2026-03-02 (alert 3), 1250.00 EUR of vendor V-42, alert id a1b2c3"
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"kind": "dispute", "stage": "reconciliation"}, "INV-1 is disputed: its reconciliation found a mismatch"),
        ({"kind": "failed"}, "INV-1 could not be posted"),
        (
            {"step": 20, "last": True, "waiting_since": parse("2025-12-31T23:59:59Z")},
            "INV-1 has waited for posting since 2025-12-31 (alert 20, the last one: it is parked)",
        ),
    ],
)
def test_a_headline_says_what_is_wrong(changes: dict[str, Any], text: str) -> None:
    assert headline(structs.replace(ALERT, **changes)) == text


def test_text_of_a_sender_cannot_be_a_command_of_a_chat_service() -> None:
    vendor = Vendor("V-1", "<!channel> & <http://evil|Bank>")
    text = summary_line(structs.replace(ALERT, invoice_id="<!here>", facts=structs.replace(FACTS, vendor=vendor)), "eu")
    assert "<" not in text
    assert ">" not in text
    assert "!channel" in text


# -- cells.yaml

SMTP_SERVER = cells.Smtp("localhost", sender="bems@example.org")
HOOK = cells.DestinationConfig(webhook=cells.WebhookConfig("https://example.com/hook", secret_env="KEY"))
CHAT = cells.DestinationConfig(webhook=cells.WebhookConfig(url_env="CHAT_URL"))
MAIL = cells.DestinationConfig(email=cells.EmailConfig(("b@example.com", "a@example.com")))
LOG = cells.DestinationConfig(log=cells.LogConfig())
ENVIRONMENT = {"KEY": SECRET, "CHAT_URL": f"https://chat.example.com/{SECRET}"}


def test_each_destination_is_built_once() -> None:
    alerts = cells.AlertsConfig(warning=(LOG, MAIL, LOG), critical=(HOOK, CHAT, MAIL, LOG))
    built = build_destinations(alerts, cells.Embedded(smtp=SMTP_SERVER), "eu-west", ENVIRONMENT)
    assert [one.key for one in built["warning"]] == ["log", "email a@example.com, b@example.com"]
    assert [one.key for one in built["critical"]] == [
        "webhook https://example.com/hook",
        "webhook $CHAT_URL",
        "email a@example.com, b@example.com",
        "log",
    ]
    assert built["warning"][0] is built["critical"][3]
    assert built["warning"][1] is built["critical"][2]
    assert SECRET not in repr(built) + "".join(one.key for both in built.values() for one in both)


@pytest.mark.parametrize(
    "other",
    [
        cells.EmailConfig(("a@example.com", "b@example.com")),
        cells.EmailConfig(("b@example.com", "a@example.com", "b@example.com")),
        cells.EmailConfig(("b@example.com", "a@example.com"), "bems@example.org"),
    ],
)
def test_an_equivalent_entry_is_the_same_destination(other: cells.EmailConfig) -> None:
    alerts = cells.AlertsConfig(warning=(MAIL,), critical=(cells.DestinationConfig(email=other),))
    built = build_destinations(alerts, cells.Embedded(smtp=SMTP_SERVER), "eu-west", {})
    assert built["warning"] == built["critical"]


@pytest.mark.parametrize(
    ("secret", "key"),
    [
        ("a-plain-text-of-24-bytes", b"a-plain-text-of-24-bytes"),
        ("ein-schlüssel-aus-text!", "ein-schlüssel-aus-text!".encode()),
        ("whsec_" + base64.b64encode(bytes(range(24))).decode(), bytes(range(24))),
        ("whsec_" + base64.b64encode(bytes(range(192, 256))).decode(), bytes(range(192, 256))),
    ],
)
def test_keys_are_text_or_base64_after_a_prefix(secret: str, key: bytes) -> None:
    with receiver(answer(200)) as server:
        hook = cells.DestinationConfig(
            webhook=cells.WebhookConfig(f"http://127.0.0.1:{server.port}/", secret_env="KEY")
        )
        (destination,) = build_destinations(
            cells.AlertsConfig(critical=(hook,)), cells.Embedded(), "eu", {"KEY": secret}
        )["critical"]
        destination.send(ALERT)
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"


_RANDOM = base64.b64encode(bytes(range(200, 232))).decode()


@pytest.mark.parametrize(
    ("secret", "error"),
    [
        (f"'whsec_{_RANDOM}'", "contains quotation marks: remove them"),
        (f'"whsec_{_RANDOM}"', "contains quotation marks: remove them"),
        (f"\u201cwhsec_{_RANDOM}\u201d", "contains quotation marks: remove them"),
        (f"whsec_{_RANDOM}\n", "contains whitespace or control characters: remove them"),
        (f" whsec_{_RANDOM}", "contains whitespace or control characters: remove them"),
        (f"whsec_ {_RANDOM}", "contains whitespace or control characters: remove them"),
        ("four words of some length", "contains whitespace or control characters: remove them"),
        (f"\ufeffwhsec_{_RANDOM}", "contains whitespace or control characters: remove them"),
        (f"KEY=whsec_{_RANDOM}", "contains whsec_ but does not begin with it: put it first"),
        (f"WHSEC_{_RANDOM}", "contains whsec_ but does not begin with it: put it first"),
        (f"whsec_whsec_{_RANDOM}", "begins with whsec_ but no valid base64 follows"),
        ("whsec_", "begins with whsec_ but no valid base64 follows"),
        ("whsec_ünï", "begins with whsec_ but no valid base64 follows"),
        (f"whsec_{_RANDOM.rstrip('=')}", "begins with whsec_ but no valid base64 follows"),
        ("short", "has 5 bytes: a key needs at least 24"),
        ("ü" * 11 + "x", "has 23 bytes: a key needs at least 24"),
        (
            "whsec_" + base64.b64encode(bytes(23)).decode(),
            "has 23 bytes after whsec_: Standard Webhooks requires 24 to 64",
        ),
        (
            "whsec_" + base64.b64encode(bytes(65)).decode(),
            "has 65 bytes after whsec_: Standard Webhooks requires 24 to 64",
        ),
    ],
)
def test_a_malformed_key_is_refused(secret: str, error: str) -> None:
    with pytest.raises(ValueError, match="cell eu: ") as refused:
        build_destinations(cells.AlertsConfig(critical=(HOOK,)), cells.Embedded(), "eu", {"KEY": secret})
    assert str(refused.value) == f"cell eu: /alerts/critical/0/webhook/secret_env: the value of KEY {error}"


def test_the_signature_equals_that_of_the_reference_libraries() -> None:
    """The test vector that the libraries of standard-webhooks and svix share."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    alert = structs.replace(ALERT, id="msg_p5jXN8AQM9LWM0D4loKWxJek")
    destination = WebhookDestination("webhook x", "http://localhost/", key, "eu", now=lambda: 1614265330 * SECOND)
    headers = destination._headers(alert, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    ("critical", "smtp", "environment", "error"),
    [
        ([LOG, HOOK], None, {}, "/alerts/critical/1/webhook/secret_env: the environment variable KEY is not set"),
        ([HOOK], None, {"KEY": ""}, "/alerts/critical/0/webhook/secret_env: the environment variable KEY is not set"),
        (
            [HOOK],
            None,
            {"KEY": f"whsec_{SECRET}!"},
            "/alerts/critical/0/webhook/secret_env: the value of KEY begins with whsec_ but no valid base64 follows",
        ),
        ([CHAT], None, {}, "/alerts/critical/0/webhook/url_env: the environment variable CHAT_URL is not set"),
        (
            [CHAT],
            None,
            {"CHAT_URL": f"ftp://{SECRET}"},
            "/alerts/critical/0/webhook/url_env: the value of CHAT_URL is not an https URL",
        ),
        (
            [CHAT],
            None,
            {"CHAT_URL": f"https://chat.example.com:99999/{SECRET}"},
            "/alerts/critical/0/webhook/url_env: the value of CHAT_URL is not an https URL",
        ),
        (
            [CHAT],
            None,
            {"CHAT_URL": f"https://:443/{SECRET}"},
            "/alerts/critical/0/webhook/url_env: the value of CHAT_URL is not an https URL",
        ),
        (
            [LOG, cells.DestinationConfig(webhook=cells.WebhookConfig(f"https://[::1/{SECRET}"))],
            None,
            {},
            "/alerts/critical/1/webhook/url: the value of url is not an https URL",
        ),
        ([MAIL], None, {}, "/alerts/critical/0/email: e-mail needs a mail server: add embedded/smtp"),
        (
            [MAIL],
            cells.Smtp("localhost"),
            {},
            "/alerts/critical/0/email: the e-mail has no sender: add from here, or to embedded/smtp",
        ),
        (
            [MAIL],
            structs.replace(SMTP_SERVER, user="u", password_env="PW"),
            {},
            "/embedded/smtp/password_env: the environment variable PW is not set",
        ),
        (
            [MAIL],
            structs.replace(SMTP_SERVER, user="u", password_env="PW"),
            {"PW": SECRET + "ü"},
            "/embedded/smtp: user and password must be ASCII",
        ),
        (
            [cells.DestinationConfig(email=cells.EmailConfig(("a,b@example.com",)))],
            SMTP_SERVER,
            {},
            "/alerts/critical/0/email: a,b@example.com is not a valid address in a mail header",
        ),
        (
            [
                MAIL,
                cells.DestinationConfig(email=cells.EmailConfig(("a@example.com", "b@example.com"), "c@example.com")),
            ],
            SMTP_SERVER,
            {},
            "/alerts/critical/1: email a@example.com, b@example.com is already listed with another key or sender: "
            "use the same",
        ),
        (
            [CHAT, cells.DestinationConfig(webhook=cells.WebhookConfig(url_env="CHAT_URL", secret_env="KEY"))],
            None,
            ENVIRONMENT,
            "/alerts/critical/1: webhook $CHAT_URL is already listed with another key or sender: use the same",
        ),
    ],
)
def test_a_configuration_error_is_reported_in_one_line(
    critical: list[cells.DestinationConfig], smtp: cells.Smtp | None, environment: dict[str, str], error: str
) -> None:
    with pytest.raises(ValueError, match="cell eu-west: ") as refused:
        build_destinations(
            cells.AlertsConfig(critical=tuple(critical)), cells.Embedded(smtp=smtp), "eu-west", environment
        )
    assert str(refused.value) == f"cell eu-west: {error}"
    assert SECRET not in str(refused.value)


def test_the_logger_of_alerts_has_its_own_name() -> None:
    assert destinations.alerts_log.name == "bems.alerts"


def test_a_mail_server_that_sends_endlessly_is_cut_off() -> None:
    ended = threading.Event()

    def send_endlessly(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            while not ended.wait(0.01):
                connection.sendall(b"220-hello\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=send_endlessly, args=(listening,))
        thread.start()
        server = cells.Smtp("127.0.0.1", listening.getsockname()[1], security="none")
        mail = EmailDestination(
            "email", ["a@example.com"], "b@example.com", server, None, "north", timeout=5.0, total_timeout=0.2
        )
        with pytest.raises(NotDelivered):
            mail.send(ALERT)
        ended.set()
        thread.join()
