"""E-mail: a message per alert, by SMTP."""

import hashlib
import logging
import smtplib
import ssl
import threading
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

from bems.embedded.alerting.delivery import NotDelivered, Now, reason, time_of_day
from bems.embedded.alerting.webhook import abort_connection
from bems.tracker.actions import Alert
from bems.tracker.alert_messages import headline, text_body
from bems.tracker.cells import Smtp
from bems.tracker.instants import to_datetime

log = logging.getLogger(__name__)

_POLICY = SMTP.clone(cte_type="7bit", max_line_length=400)
"""A subject fits into a line; a line may have 998 characters (RFC 5322)."""

MAX_PARTIAL = 1_000
"""Of so many alerts is remembered who took them while others did not. Of older ones, who did gets them twice."""

Refused = dict[str, tuple[int, bytes]]
"""The server's answer by the address that it refuses. Its text is not passed on: nobody knows what is in it."""


class Email:
    """A Destination. The Message-ID of an alert is the same each time, by which mail systems know what comes twice."""

    def __init__(
        self,
        key: str,
        to: Iterable[str],
        sender: str,
        server: Smtp,
        password: str | None,
        cell: str,
        *,
        now: Now = time_of_day,
        timeout: float = 15.0,
        total: float = 60.0,
    ) -> None:
        self.key = key
        self._to = tuple(to)
        self._sender = sender
        self._server = server
        self._password = password
        self._cell = cell
        self._now = now
        self._timeout, self._total = timeout, total
        self._partial_deliveries: OrderedDict[str, set[str]] = OrderedDict()

    def send(self, alert: Alert) -> None:
        """Whoever took it is not sent it again while others are tried again. Who refuses it for good while others take
        it is named in the log, and does not hold it up."""
        served = self._partial_deliveries.get(alert.id, set())
        left = [address for address in self._to if address not in served]
        try:
            refused = self._deliver(self._message(alert), left)
        except (smtplib.SMTPException, OSError) as error:
            raise self._failure(error) from None
        if len(refused) == len(self._to):
            raise NotDelivered(_refusals(refused), outage=True)
        for_good = {address: answer for address, answer in refused.items() if answer[0] >= 500}
        if for_good:
            log.error("%s: %s; the others took alert %s", self.key, _refusals(for_good), alert.id)
        later = {address: answer for address, answer in refused.items() if address not in for_good}
        if later:
            self._partial_deliveries[alert.id] = set(self._to) - set(later)
            if len(self._partial_deliveries) > MAX_PARTIAL:
                # As a rule one that was given up meanwhile.
                self._partial_deliveries.popitem(last=False)
            raise NotDelivered(_refusals(later), outage=False)
        self._partial_deliveries.pop(alert.id, None)

    def _deliver(self, message: EmailMessage, to: list[str]) -> Refused:
        """Hand it to the server; who was refused."""
        if self._server.security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(timeout=self._timeout, context=ssl.create_default_context())
        else:
            server = smtplib.SMTP(timeout=self._timeout)
        # Connecting later, so that the alarm knows the connection before its first word; TLS asks for this name.
        server._host = self._server.host  # type: ignore[attr-defined]
        alarm = threading.Timer(self._total, lambda: abort_connection(server.sock))
        alarm.daemon = True
        alarm.start()
        try:
            server.connect(self._server.host, self._server.port)
            if self._server.security == "starttls":
                server.starttls(context=ssl.create_default_context())
            if self._server.user is not None and self._password is not None:
                server.login(self._server.user, self._password)
            return server.send_message(message, self._sender, to)
        except smtplib.SMTPRecipientsRefused as error:
            return error.recipients
        finally:
            alarm.cancel()
            with suppress(smtplib.SMTPException, OSError):
                server.quit()
            server.close()

    def _message(self, alert: Alert) -> EmailMessage:
        message = EmailMessage(policy=_POLICY)
        # An invoice's id may look like an encoded word (RFC 2047). Python would decode it, line breaks included.
        subject = headline(alert).replace("=?", "=.?")
        message["Subject"] = f"[BEMS {self._cell}] {alert.severity}: {subject}"
        message["From"] = Address(addr_spec=self._sender)
        message["To"] = [Address(addr_spec=address) for address in self._to]
        message["Date"] = format_datetime(to_datetime(self._now()).replace(microsecond=0))
        destination = hashlib.sha256(self.key.encode()).hexdigest()[:16]
        message["Message-ID"] = f"<{alert.id}.{destination}@{self._sender.rpartition('@')[2]}>"
        message["X-BEMS-Alert-Id"] = alert.id
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(text_body(alert, self._cell))
        return message

    def _failure(self, error: Exception) -> NotDelivered:
        if isinstance(error.__context__, TimeoutError):
            # smtplib says of a silence that the server disconnected.
            error = error.__context__
        match error:
            case smtplib.SMTPDataError() if error.smtp_code >= 500:
                return NotDelivered(f"the mail server refuses the message ({error.smtp_code})", outage=False)
            case smtplib.SMTPAuthenticationError():
                why = f"the mail server refuses the login ({error.smtp_code})"
            case smtplib.SMTPSenderRefused():
                why = f"the mail server refuses the sender {self._sender} ({error.smtp_code})"
            case smtplib.SMTPResponseException():
                why = f"the mail server answers {error.smtp_code}"
            case smtplib.SMTPNotSupportedError():
                why = "the mail server lacks STARTTLS, the login, or addresses beyond ASCII"
            case smtplib.SMTPException():
                why = f"the mail server breaks off ({type(error).__name__})"
            case ssl.SSLCertVerificationError():
                why = f"the mail server's certificate is not trusted (OpenSSL's error {error.verify_code})"
            case TimeoutError():
                why = f"the mail server does not answer within {self._timeout:g} s"
            case _:
                why = f"the mail server cannot be reached: {reason(error)}"
        return NotDelivered(why, outage=True)


def _refusals(refused: Refused) -> str:
    """Who was refused. An operator needs the address more than anything else."""
    return "the mail server refuses " + ", ".join(f"{address} ({code})" for address, (code, _) in refused.items())
