"""The webhook: a POST per alert, signed as Standard Webhooks says (https://www.standardwebhooks.com).

What is secret, the key and the URL of a `url_env`, is in no error and no log line; so the texts of receivers, which may
repeat it, are not passed on either.
"""

import base64
import hashlib
import hmac
import logging
import socket
import ssl
import threading
import time
from contextlib import suppress
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import HTTPException
from typing import NamedTuple

import msgspec
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError
from urllib3.util import parse_url

from bems.embedded.alerting.delivery import NotDelivered, Now, reason, time_of_day
from bems.tracker.actions import Alert
from bems.tracker.alert_messages import json_body
from bems.tracker.instants import HOUR, SECOND, Instant, from_datetime

MAX_RESPONSE_BYTES = 64 * 1024
"""So many bytes of an answer are read, out of courtesy: none of them matters."""

MAX_RETRY_AFTER = HOUR
"""A receiver may ask for no longer one."""

# urllib3 logs the URL of an answer whose headers it cannot read.
logging.getLogger("urllib3.connection").addFilter(lambda record: "url=" not in str(record.msg))


class Timeouts(NamedTuple):
    """Seconds that a receiver may take to let connect, to say something, and for the whole answer."""

    connect: float = 5.0
    read: float = 10.0
    total: float = 15.0


PATIENCE = Timeouts()


class Webhook:
    """A Destination. Without a secret the requests are not signed; redirects are not followed, and no proxy of the
    environment is used. `now` is the time of day, by which receivers refuse what is old."""

    def __init__(
        self,
        key: str,
        url: str,
        secret: bytes | None,
        cell: str,
        *,
        now: Now = time_of_day,
        patience: Timeouts = PATIENCE,
    ) -> None:
        self.key = key
        self._url = parse_url(url)
        self._secret = secret
        self._cell = cell
        self._now = now
        self._patience = patience

    def send(self, alert: Alert) -> None:
        body = msgspec.json.encode(json_body(alert, self._cell))
        try:
            status, retry_after = self._post(body, self._headers(alert, body))
        except (HTTPError, HTTPException, OSError) as error:
            raise NotDelivered(self._describe(error), outage=True) from None
        if not 200 <= status < 300:
            outage = status in (408, 425, 429) or status >= 500
            raise NotDelivered(_status_text(status), outage=outage, retry_after=self._pause(retry_after))

    def _headers(self, alert: Alert, body: bytes) -> dict[str, str]:
        timestamp = str(self._now() // SECOND)
        headers = {
            "content-type": "application/json",
            "user-agent": "bems",
            "connection": "close",
            "webhook-id": alert.id,
            "webhook-timestamp": timestamp,
        }
        if self._secret is not None:
            signed = b".".join((alert.id.encode(), timestamp.encode(), body))
            digest = hmac.digest(self._secret, signed, hashlib.sha256)
            headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
        return headers

    def _post(self, body: bytes, headers: dict[str, str]) -> tuple[int, str | None]:
        """The status of the answer, and its Retry-After. Each has a connection of its own: alerts are few, and one that
        was kept open may be closed by the other side just as it is used again."""
        url, patience, began = self._url, self._patience, time.monotonic()
        kind, port = (HTTPSConnection, 443) if url.scheme == "https" else (HTTPConnection, 80)
        connection = kind((url.host or "").strip("[]"), url.port or port, timeout=patience.connect)
        alarm: threading.Timer | None = None
        try:
            connection.connect()
            alarm = threading.Timer(began + patience.total - time.monotonic(), abort_connection, [connection.sock])
            alarm.daemon = True
            alarm.start()
            connection.timeout = patience.read
            connection.request("POST", url.request_uri, body, headers, preload_content=False)
            answer = connection.getresponse()
            with suppress(HTTPError, HTTPException, OSError):
                answer.read(MAX_RESPONSE_BYTES)
            return answer.status, answer.headers.get("retry-after")
        except (HTTPError, HTTPException, OSError):
            if time.monotonic() < began + patience.total:
                raise
            raise NotDelivered(f"it takes longer than {patience.total:g} s", outage=True) from None
        finally:
            if alarm:
                alarm.cancel()
            connection.close()

    def _pause(self, retry_after: str | None) -> Instant | None:
        """Microseconds, of a number of seconds or a date (RFC 9110, 10.2.3); None where it is neither."""
        if retry_after is None:
            return None
        if retry_after.isascii() and retry_after.isdecimal():
            return min(int(retry_after[:9]) * SECOND, MAX_RETRY_AFTER)
        with suppress(ValueError, TypeError):
            return min(max(0, from_datetime(parsedate_to_datetime(retry_after)) - self._now()), MAX_RETRY_AFTER)
        return None

    def _describe(self, error: Exception) -> str:
        match error:
            case NameResolutionError():
                return "its host is not known"
            case NewConnectionError():
                return f"it cannot be connected to: {reason(error.__cause__)}"
            case ConnectTimeoutError():
                return f"it does not let connect within {self._patience.connect:g} s"
            case ssl.SSLCertVerificationError():
                return f"its certificate is not trusted (OpenSSL's error {error.verify_code})"
            case ssl.SSLError():
                return f"it does not speak TLS as it should ({error.reason})"
            case TimeoutError():
                return f"it does not answer within {self._patience.read:g} s"
        return f"it breaks off ({type(error).__name__})"


def abort_connection(connected: socket.socket | None) -> None:
    """End a conversation that never falls silent, but leads nowhere."""
    if connected is not None:
        with suppress(OSError):
            socket.socket.shutdown(connected, socket.SHUT_RDWR)


def _status_text(status: int) -> str:
    with suppress(ValueError):
        return f"it answers {status} {HTTPStatus(status).phrase}"
    return f"it answers {status}"
