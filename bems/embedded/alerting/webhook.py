"""Webhook destination: sends one POST request per alert, signed according to https://www.standardwebhooks.com.

Errors and log lines never contain secrets, which are the signing key and the URL of a `url_env`. They do not quote the
receiver's responses either, because a response may repeat a secret.
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

from bems.embedded.alerting.delivery import NotDelivered, Now, os_error_text, time_of_day
from bems.tracker.alert_messages import json_body
from bems.tracker.control_totals import AlertMessage
from bems.tracker.instants import HOUR, SECOND, Instant, from_datetime

MAX_RESPONSE_BYTES = 64 * 1024
"""Maximum number of bytes of a response body that are read. The content is ignored."""

MAX_RETRY_AFTER = HOUR
"""Maximum pause that a receiver may ask for, in microseconds."""

# urllib3 logs the URL of a response whose headers it cannot parse.
logging.getLogger("urllib3.connection").addFilter(lambda record: "url=" not in str(record.msg))


class Timeouts(NamedTuple):
    """Timeouts in seconds: for connecting, for each read, and for the whole request."""

    connect: float = 5.0
    read: float = 10.0
    total: float = 15.0


DEFAULT_TIMEOUTS = Timeouts()


class WebhookDestination:
    """A Destination. Requests are unsigned if `secret` is None. Redirects are not followed, and proxies from the
    environment are not used. `now` gives the timestamp in the signature, by which receivers reject old requests."""

    def __init__(
        self,
        key: str,
        url: str,
        secret: bytes | None,
        cell: str,
        *,
        now: Now = time_of_day,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        self.key = key
        self._url = parse_url(url)
        self._secret = secret
        self._cell = cell
        self._now = now
        self._timeouts = timeouts

    def send(self, alert: AlertMessage) -> None:
        body = msgspec.json.encode(json_body(alert, self._cell))
        try:
            status, retry_after = self._post(body, self._headers(alert, body))
        except (HTTPError, HTTPException, OSError) as error:
            raise NotDelivered(self._describe(error), outage=True) from None
        if not 200 <= status < 300:
            outage = status in (408, 425, 429) or status >= 500
            raise NotDelivered(_status_text(status), outage=outage, retry_after=self._parse_retry_after(retry_after))

    def _headers(self, alert: AlertMessage, body: bytes) -> dict[str, str]:
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
        """Send the request and return the response's status and Retry-After header.

        Every request opens a new connection: alerts are rare, and the receiver could close an idle connection at the
        moment of its reuse.
        """
        url, timeouts, started = self._url, self._timeouts, time.monotonic()
        connection_class, port = (HTTPSConnection, 443) if url.scheme == "https" else (HTTPConnection, 80)
        connection = connection_class((url.host or "").strip("[]"), url.port or port, timeout=timeouts.connect)
        timer: threading.Timer | None = None
        try:
            connection.connect()
            timer = threading.Timer(started + timeouts.total - time.monotonic(), abort_connection, [connection.sock])
            timer.daemon = True
            timer.start()
            connection.timeout = timeouts.read
            connection.request("POST", url.request_uri, body, headers, preload_content=False)
            response = connection.getresponse()
            with suppress(HTTPError, HTTPException, OSError):
                response.read(MAX_RESPONSE_BYTES)
            return response.status, response.headers.get("retry-after")
        except (HTTPError, HTTPException, OSError):
            if time.monotonic() < started + timeouts.total:
                raise
            raise NotDelivered(f"the request took longer than {timeouts.total:g} s", outage=True) from None
        finally:
            if timer:
                timer.cancel()
            connection.close()

    def _parse_retry_after(self, retry_after: str | None) -> Instant | None:
        """Return the pause of a Retry-After header in microseconds, or None if it is invalid.

        The header is a number of seconds or a date (RFC 9110, 10.2.3).
        """
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
                return "the host name cannot be resolved"
            case NewConnectionError():
                return f"cannot connect: {os_error_text(error.__cause__)}"
            case ConnectTimeoutError():
                return f"no connection within {self._timeouts.connect:g} s"
            case ssl.SSLCertVerificationError():
                return f"the certificate is not trusted (OpenSSL error {error.verify_code})"
            case ssl.SSLError():
                return f"the TLS handshake failed ({error.reason})"
            case TimeoutError():
                return f"no response within {self._timeouts.read:g} s"
        return f"the connection broke off ({type(error).__name__})"


def abort_connection(connection: socket.socket | None) -> None:
    """Shut down a connection whose peer keeps sending, so that no read times out."""
    if connection is not None:
        with suppress(OSError):
            socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _status_text(status: int) -> str:
    with suppress(ValueError):
        return f"answered {status} {HTTPStatus(status).phrase}"
    return f"answered {status}"
