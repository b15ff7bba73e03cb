"""The log of a cell contains no secrets: no keys, no URLs or keys of webhooks, no mail password."""

import base64
import signal
import socket
from pathlib import Path

import pytest
import urllib3

from bems.tracker.contract import STAGES
from tests.cell_process import SPEED, CellProcess
from tests.faults.conftest import Figures
from tests.waiting import SOON, until

SIGNING = base64.b64encode(b"the key that signs alerts").decode()
SECRETS = {
    "BEMS_CHAT_URL": "https://127.0.0.1:1/hooks/T0P-5ECRET-PATH",
    "BEMS_WEBHOOK_KEY": f"whsec_{SIGNING}",
    "BEMS_SMTP_PASSWORD": "pa55-of-the-mail-server",
}
RULE = "{deadline: 1d, escalate_every: 1d, critical_at: 2, give_up_at: 3, overrides: []}"
CELLS = f"""
cells:
  - name: talkative
    region: eu-west-1
    policy: {{critical_amount_from: {{}}, stages: {{{", ".join(f"{stage}: {RULE}" for stage in STAGES)}}}}}
    alerts:
      warning: [{{webhook: {{url_env: BEMS_CHAT_URL}}}}, {{email: {{to: [a@example.com], from: b@example.com}}}}]
      critical: [{{webhook: {{url: "https://127.0.0.1:1/", secret_env: BEMS_WEBHOOK_KEY}}}}, {{log: {{}}}}]
    embedded:
      smtp: {{host: 127.0.0.1, port: PORT, security: none, user: bems, password_env: BEMS_SMTP_PASSWORD}}
"""


def test_no_secret_is_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: Figures) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    log, cells = tmp_path / "errors.log", tmp_path / "cells.yaml"
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    cells.write_text(CELLS.replace("PORT", str(port)))
    with CellProcess(tmp_path / "cell", log, "--cells", str(cells), "--speed", str(SPEED)) as server:
        admin = server.read_admin_key()

        def ask(method: str, path: str, key: str = admin, body: object = None) -> urllib3.BaseHTTPResponse:
            return urllib3.request(
                method, server.url + path, json=body, headers={"x-api-key": key}, retries=False, timeout=SOON
            )

        made = ask("POST", "/keys", body={"name": "sap", "role": "sender"})
        assert made.status == 201
        key = made.json()["text"]
        event = {
            "event_id": "1", "invoice_id": "INV-1", "status": "received", "occurred_at": "2026-03-02T09:00:00Z",
            "amount": "1.00", "currency": "EUR", "vendor": {"id": "V"}, "source": {"system": "sap"},
        }  # fmt: skip
        assert ask("POST", "/invoices/ingestion", key, event).status == 202
        assert ask("POST", "/invoices/ingestion", key[:-1] + "!", event).status == 403
        # Wait until every destination has failed and logged it.
        until(
            lambda: all(what in log.read_text() for what in ("$BEMS_CHAT_URL", "email a@example.com", "critical:")), 60
        )
        assert ask("GET", f"/healthz?{key}", admin).status == 200
        assert ask("GET", "/check", admin + "x").status == 403
        failing = ask("GET", "/healthz").json()["deliveries"]
        assert "BEMS_CHAT_URL" in failing
        assert server.end(signal.SIGTERM) == 0
    logged = log.read_text() + failing
    secrets = {admin, key, *SECRETS.values()}
    parts = {admin.split("_", 2)[2], key.split("_", 2)[2], SIGNING, "T0P-5ECRET", "pa55-of"}
    auth = base64.b64encode(b"\0bems\0" + SECRETS["BEMS_SMTP_PASSWORD"].encode()).decode()
    assert not [secret for secret in secrets | parts | {auth} if secret in logged]
    assert "bems_" not in logged
    figures.record("every destination failing, wrong keys", "once", f"{len(secrets)} secrets, none in the log")
