"""Bulk commands: the same command for many invoices, with an outcome for each; idempotent under one run id."""

import csv
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from datetime import datetime
from hashlib import blake2b
from typing import Any, Literal, NamedTuple, get_args

import click
import msgspec

from bems.cli.client import Client, Reply, decode_as, quote_path
from bems.cli.errors import Failure, UserError
from bems.cli.files import LogFile
from bems.cli.http_errors import NoResponse, read_json, read_problem, to_one_line
from bems.cli.output import format_time
from bems.embedded.api.access import OPERATORS
from bems.embedded.api.operations import Accepted
from bems.embedded.api.views import Invoice
from bems.tracker.contract import STAGE_INDEX, STAGES, Identifier, Stage
from bems.validation.error_messages import format_value

MAX_IN_FLIGHT_COMMANDS = 4
RETRIES_FOR_SECONDS = 15.0
MIN_RETRY_PAUSE_SECONDS, MAX_RETRY_PAUSE_SECONDS = 0.2, 5.0
MAX_SHOWN_ERRORS = 10
HEADERS = ("invoice_id", "invoiceid", "invoice", "id")
DELIMITERS = "\t;,"

Result = Literal["done", "repeated", "requested", "refused", "not_found", "unknown", "not_sent"]
"""`repeated`: done by an earlier run. `requested`: a second person must confirm it. `unknown`: sent without a response.
`not_sent`: the run ended before."""

SUCCESSES: tuple[Result, ...] = ("done", "repeated", "requested")
RESULT_TEXTS: dict[Result, str] = {
    "done": "done",
    "repeated": "already done",
    "requested": "requested, another person must confirm it",
    "refused": "refused",
    "not_found": "not found",
    "unknown": "outcome unknown",
    "not_sent": "not sent",
}

_ACCEPTED = msgspec.json.Decoder(Accepted)


class CommandOutcome(NamedTuple):
    """The result of the command for one invoice, and the reason if it was not done.

    `next_alert_at` is when the invoice's next alert is due, if known. `missing_stage` is an earlier stage than the
    completed one, for which the invoice still waits.
    """

    invoice_id: str
    result: Result
    reason: str = ""
    next_alert_at: datetime | None = None
    missing_stage: Stage | None = None


def command_id(run: str, invoice_id: str) -> str:
    """Return the id of a run's command for an invoice. It is deterministic, which makes repeating a run idempotent."""
    return f"{run}-{blake2b(invoice_id.encode(), digest_size=8).hexdigest()}"


class BulkCommand:
    """Sends the same command for many invoices, a few concurrently. `fault` is the error that ended the run early."""

    def __init__(self, client: Client, run: str, body: Mapping[str, str | None]) -> None:
        self.fault: click.ClickException | None = None
        self._client, self._run, self._body = client, run, body
        self._ended = threading.Event()

    def send(
        self, invoice_ids: Sequence[str], on_outcome: Callable[[CommandOutcome], object]
    ) -> tuple[list[CommandOutcome], bool]:
        """Return the outcome for each invoice, in order, and whether Ctrl-C interrupted the run.

        An interrupted run waits for the requests in flight.
        """
        futures: list[Future[CommandOutcome]] = []
        outcomes: dict[str, CommandOutcome] = {}
        is_interrupted = False
        with ThreadPoolExecutor(MAX_IN_FLIGHT_COMMANDS, "bems-act") as threads:
            try:
                for number in range(len(invoice_ids)):
                    next_ids = invoice_ids[len(futures) : number + MAX_IN_FLIGHT_COMMANDS]
                    futures += [threads.submit(self._send_one, invoice_id) for invoice_id in next_ids]
                    outcomes[invoice_ids[number]] = outcome = futures[number].result()
                    on_outcome(outcome)
            except KeyboardInterrupt:
                is_interrupted = True
            finally:
                self._ended.set()
        for invoice_id, future in zip(invoice_ids, futures, strict=False):
            outcomes[invoice_id] = future.result()
        return [outcomes.get(one) or CommandOutcome(one, "not_sent") for one in invoice_ids], is_interrupted

    def _send_one(self, invoice_id: str) -> CommandOutcome:
        body = msgspec.json.encode(
            {**self._body, "invoice_id": invoice_id, "command_id": command_id(self._run, invoice_id)}
        )
        pause, until, was_sent = MIN_RETRY_PAUSE_SECONDS, time.monotonic() + RETRIES_FOR_SECONDS, False
        while not self._ended.is_set():
            try:
                reply = self._client.request("POST", "/commands", body)
            except NoResponse as fault:
                wait, error, is_retryable = pause, fault, fault.retryable
            else:
                outcome = _parse_outcome(invoice_id, reply)
                if outcome is not None:
                    return self._with_missing_stage(outcome) if outcome.result in SUCCESSES else outcome
                wait = max(pause, reply.retry_after)
                error = self._client.to_error(reply, OPERATORS)  # type: ignore[assignment]
                is_retryable = reply.status in (408, 429) or reply.status >= 500
            was_sent = was_sent or not isinstance(error, UserError)
            if not is_retryable or time.monotonic() + wait > until:
                self.fault = self.fault or error
                self._ended.set()
                break
            self._ended.wait(wait)
            pause = min(2 * pause, MAX_RETRY_PAUSE_SECONDS)
        return CommandOutcome(invoice_id, "unknown" if was_sent else "not_sent")

    def _with_missing_stage(self, outcome: CommandOutcome) -> CommandOutcome:
        """Return the outcome with the stage before the completed one for which the invoice still waits.

        Return it unchanged if there is none or the invoice cannot be read.
        """
        completed = self._body.get("stage")
        if completed not in STAGES:
            return outcome
        try:
            found = self._client.request_json("GET", f"/invoices/{quote_path(outcome.invoice_id)}", OPERATORS)
            stage = decode_as(found, Invoice).stage
        except click.ClickException:
            return outcome
        is_earlier = stage is not None and STAGE_INDEX[stage] < STAGE_INDEX[completed]
        return outcome._replace(missing_stage=stage) if is_earlier else outcome


def _parse_outcome(invoice_id: str, reply: Reply) -> CommandOutcome | None:
    """Return the outcome in a response; None if the response has none."""
    if reply.status == 200 and (accepted := read_json(reply.body, _ACCEPTED)) is not None:
        result: Result = "done" if accepted.status == "accepted" else "repeated"
        return CommandOutcome(invoice_id, result, next_alert_at=accepted.next_alert_at)
    if reply.status == 202:
        return CommandOutcome(invoice_id, "requested")
    problem = read_problem(reply.body)
    if problem is None or reply.status not in (400, 404, 409, 413):
        return None
    return CommandOutcome(invoice_id, "not_found" if reply.status == 404 else "refused", problem.as_one_line())


class BulkSummary(NamedTuple):
    """Number of commands by result."""

    counts: Counter[Result]

    @property
    def all_succeeded(self) -> bool:
        return self.counts.total() == sum(self.counts[result] for result in SUCCESSES)

    def __str__(self) -> str:
        parts = [
            f"{self.counts[result]:,} {RESULT_TEXTS[result]}" for result in get_args(Result) if self.counts[result]
        ]
        return ": ".join(filter(None, (f"{self.counts.total():,} in all", ", ".join(parts))))


def read_ids(path: str) -> list[str]:
    """Return the invoice ids in a file, in order and without duplicates.

    A line is an id, a row of CSV (the column `invoice_id`, else the first), or a JSON object with `invoice_id`. Blank
    lines and lines that start with # are skipped. Raises UserError with every line that has no valid id.
    """
    ids: dict[str, None] = {}
    errors: list[str] = []
    table = _CsvRows()
    with closing(_IdFile(path)) as log:
        lines = list(log)
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError:
            errors.append(f"{path}:{number}: this is not UTF-8 text")
            continue
        if not text or text.startswith("#"):
            continue
        found = _id_in_json(text) if text.startswith("{") else table.id_in(text)
        if found is None:
            continue
        try:
            ids[msgspec.convert(found, Identifier)] = None
        except msgspec.ValidationError:
            what = "there is no invoice_id" if found == "" else f"{format_value(found)} is not an invoice id"
            errors.append(f"{path}:{number}: {what}: use 1 to 128 printable ASCII characters without spaces")
    if errors:
        more = len(errors) - MAX_SHOWN_ERRORS
        shown = errors[:MAX_SHOWN_ERRORS] + ([f"{path}: {more} more such lines"] if more > 0 else [])
        raise UserError("\n".join(shown))
    return list(ids)


def _id_in_json(text: str) -> Any:
    try:
        line = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text
    # A line of an event log has the id in its event.
    for place in (line, line.get("event"), line.get("invoice")):
        if isinstance(place, dict) and "invoice_id" in place:
            return place["invoice_id"]
    return ""


class _IdFile(LogFile):
    EXPECTED_FORMAT = "write one id per line, or CSV in UTF-8 with a column invoice_id"


class _CsvRows:
    """Reads rows of CSV. A line without a delimiter is a row of one cell. The first row may be a header."""

    def __init__(self) -> None:
        self._delimiter: str | None = None
        self._column = 0

    def id_in(self, text: str) -> str | None:
        """Return the id in a row, empty if there is none; None for the header."""
        is_first = self._delimiter is None
        if self._delimiter is None:
            self._delimiter = max(DELIMITERS, key=text.count)
        cells = [cell.strip() for cell in next(csv.reader([text], delimiter=self._delimiter))]
        names = [cell.lower().replace(" ", "_") for cell in cells]
        if is_first and (headers := [name for name in HEADERS if name in names]):
            self._column = names.index(headers[0])
            return None
        return cells[self._column] if self._column < len(cells) else ""


def as_document(
    run: str, body: Mapping[str, str | None], outcomes: Sequence[CommandOutcome], summary: BulkSummary
) -> dict[str, Any]:
    """Return the run and its results as printed by --json."""
    return {
        "run": run,
        **body,
        "results": [
            {
                "invoice_id": one.invoice_id,
                "result": one.result,
                **({"reason": one.reason} if one.reason else {}),
                **({"next_alert_at": one.next_alert_at} if one.next_alert_at else {}),
                **({"waits_for": one.missing_stage} if one.missing_stage else {}),
            }
            for one in outcomes
        ],
        "summary": {result: summary.counts[result] for result in get_args(Result)},
    }


def format_outcome(verb: str, outcome: CommandOutcome) -> str:
    """Return a line such as `park INV-1: refused: the invoice is parked: revive it first`."""
    result = RESULT_TEXTS[outcome.result]
    reason = f": {to_one_line(outcome.reason)}" if outcome.reason and outcome.result != "not_found" else ""
    alert = (
        f", next alert {format_time(outcome.next_alert_at)} UTC" if verb == "extend" and outcome.next_alert_at else ""
    )
    missing = f", but the earlier stage {outcome.missing_stage} is still missing" if outcome.missing_stage else ""
    return f"{verb} {to_one_line(outcome.invoice_id)}: {result}{alert}{missing}{reason}"


def to_resumable_failure(fault: click.ClickException, retry_options: str) -> click.ClickException:
    """Return the error that ended a run early, with how to resume the run. `retry_options` resume it."""
    if isinstance(fault, UserError):
        return fault
    return Failure(
        f"{fault.message}; to resume, repeat it with {retry_options}: commands that were done are not done twice"
    )
