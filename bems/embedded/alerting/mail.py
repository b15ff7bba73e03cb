"""E-mail destination: sends one message per alert by SMTP."""

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

from bems.embedded.alerting.delivery import NotDelivered, Now, os_error_text, time_of_day
from bems.embedded.alerting.webhook import abort_connection
from bems.tracker.alert_messages import headline, text_body, urgency
from bems.tracker.cells import Smtp
from bems.tracker.control_totals import AlertMessage
from bems.tracker.instants import to_datetime

log = logging.getLogger(__name__)

_POLICY = SMTP.clone(cte_type="7bit", max_line_length=400)
"""Keeps each subject on one line. A line may have up to 998 characters (RFC 5322, 2.1.1)."""

MAX_PARTIAL_DELIVERIES = 1_000
"""Maximum number of alerts for which the recipients that already accepted the message are remembered. When an older one
is retried, those recipients get it again."""

RefusedRecipients = dict[str, tuple[int, bytes]]
"""The server's reply for each refused address. Its text is neither logged nor stored, because it may hold a secret."""


class EmailDestination:
    """A Destination. Repeated messages for an alert share a Message-ID, so that mail systems can drop duplicates."""

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
        total_timeout: float = 60.0,
    ) -> None:
        self.key = key
        self._to = tuple(to)
        self._sender = sender
        self._server = server
        self._password = password
        self._cell = cell
        self._now = now
        self._timeout, self._total_timeout = timeout, total_timeout
        self._partial_deliveries: OrderedDict[str, set[str]] = OrderedDict()

    def send(self, alert: AlertMessage) -> None:
        """Send the message to all recipients.

        After a partial delivery, only the recipients that have not accepted the message are tried again. A recipient
        that is refused permanently while others accept is logged, and does not fail the delivery.
        """
        accepted = self._partial_deliveries.get(alert.id, set())
        remaining = [address for address in self._to if address not in accepted]
        try:
            refused = self._deliver(self._message(alert), remaining)
        except (smtplib.SMTPException, OSError) as error:
            raise self._not_delivered(error) from None
        if len(refused) == len(self._to):
            raise NotDelivered(_describe_refusals(refused), outage=True)
        permanent = {address: reply for address, reply in refused.items() if reply[0] >= 500}
        if permanent:
            log.error("%s: %s; the others accepted alert %s", self.key, _describe_refusals(permanent), alert.id)
        temporary = {address: reply for address, reply in refused.items() if address not in permanent}
        if temporary:
            self._partial_deliveries[alert.id] = set(self._to) - set(temporary)
            if len(self._partial_deliveries) > MAX_PARTIAL_DELIVERIES:
                # The oldest one has usually been given up.
                self._partial_deliveries.popitem(last=False)
            raise NotDelivered(_describe_refusals(temporary), outage=False)
        self._partial_deliveries.pop(alert.id, None)

    def _deliver(self, message: EmailMessage, to: list[str]) -> RefusedRecipients:
        """Send the message and return the refused recipients."""
        if self._server.security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(timeout=self._timeout, context=ssl.create_default_context())
        else:
            server = smtplib.SMTP(timeout=self._timeout)
        # The constructor must not connect: the timer needs the object before the server's first reply. `connect` does
        # not set the host name that TLS verifies.
        server._host = self._server.host  # type: ignore[attr-defined]
        timer = threading.Timer(self._total_timeout, lambda: abort_connection(server.sock))
        timer.daemon = True
        timer.start()
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
            timer.cancel()
            with suppress(smtplib.SMTPException, OSError):
                server.quit()
            server.close()

    def _message(self, alert: AlertMessage) -> EmailMessage:
        message = EmailMessage(policy=_POLICY)
        # An invoice id may look like an encoded word (RFC 2047). Python would decode it, including line breaks.
        subject = headline(alert).replace("=?", "=.?")
        message["Subject"] = f"[BEMS {self._cell}] {urgency(alert)}: {subject}"
        message["From"] = Address(addr_spec=self._sender)
        message["To"] = [Address(addr_spec=address) for address in self._to]
        message["Date"] = format_datetime(to_datetime(self._now()).replace(microsecond=0))
        destination = hashlib.sha256(self.key.encode()).hexdigest()[:16]
        message["Message-ID"] = f"<{alert.id}.{destination}@{self._sender.rpartition('@')[2]}>"
        message["X-BEMS-Alert-Id"] = alert.id
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(text_body(alert, self._cell))
        return message

    def _not_delivered(self, error: Exception) -> NotDelivered:
        if isinstance(error.__context__, TimeoutError):
            # smtplib reports a timeout as a disconnection.
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
                why = f"the SMTP session failed ({type(error).__name__})"
            case ssl.SSLCertVerificationError():
                why = f"the mail server's certificate is not trusted (OpenSSL error {error.verify_code})"
            case TimeoutError():
                why = f"the mail server does not reply within {self._timeout:g} s"
            case _:
                why = f"the mail server cannot be reached: {os_error_text(error)}"
        return NotDelivered(why, outage=True)


def _describe_refusals(refused: RefusedRecipients) -> str:
    """Return a message with the refused addresses, which an operator needs most."""
    return "the mail server refuses " + ", ".join(f"{address} ({code})" for address, (code, _) in refused.items())
