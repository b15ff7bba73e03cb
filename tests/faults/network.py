"""Network between the cell and its clients: source systems and operators, which send until they get an answer.

Requests and answers are lost, duplicated, delayed and reordered. Events are sent alone, in batches, and in bursts.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING

from msgspec import Struct

from bems.embedded.storage.errors import QueueFull
from bems.embedded.writer import Redrive, Stopped
from bems.tracker.commands import Command, Verb
from bems.tracker.contract import STAGES
from bems.tracker.decisions import Receipt
from bems.tracker.instants import DAY, HOUR, MINUTE, SECOND
from tests.embedded.submit import submit
from tests.faults.invariants import require
from tests.faults.scenario import WEEKS, Emission, draw_emissions, draw_verb
from tests.faults.simulated_cell import Request

if TYPE_CHECKING:
    from tests.faults.environment import Environment

MAX_BATCH_EVENTS = 20
"""Maximum number of events in a batch."""


class OperatorCommand(Struct):
    """A command that an operator sends until it is answered."""

    id: str
    invoice_id: str
    verb: Verb
    answer: str | None = None


class Network:
    """All clients of the cell. `answered`: the first answer to each event."""

    def __init__(self, environment: "Environment", random: Random) -> None:
        self.answered: dict[str, str] = {}
        self._environment, self._random = environment, random
        self._emissions = draw_emissions(random)
        self.invoices = sorted({emission.invoice_id for emission in self._emissions})
        self._twins = {emission.event_id for emission in self._emissions if emission.twin}
        self._done: set[bytes] = set()
        self._pending: list[tuple[Request, list[Emission]]] = []
        self._commands: list[OperatorCommand] = []
        self._submitted: list[tuple[OperatorCommand, Future[Receipt]]] = []
        self._loss_rate = random.choice((0.0, 0.05, 0.3))
        self._delay_rate = random.choice((0.0, 0.3))
        self._is_reliable = False

    def schedule_traffic(self) -> None:
        environment, random = self._environment, self._random
        now = environment.clock.true
        for emission in self._emissions:
            environment.schedule(emission.at - now, lambda emission=emission: self._send([emission]))  # type: ignore[misc]
        for number in range(random.choice((0, 3, 10))):
            command = OperatorCommand(
                f"c{number}", random.choice(self.invoices), draw_verb(random, now + WEEKS * 4 * DAY)
            )
            self._commands.append(command)
            environment.schedule(random.randrange(WEEKS * 7 * DAY), lambda command=command: self._send_command(command))  # type: ignore[misc]
        for _ in range(random.choice((0, 0, 1, 3))):
            environment.schedule(random.randrange(WEEKS * 7 * DAY), self._burst)
        for _ in range(random.choice((0, 1, 5))):
            environment.schedule(random.randrange(WEEKS * 7 * DAY), self._redrive)

    def stop_losses(self) -> None:
        self._is_reliable = True
        for command in self._commands:
            self._send_command(command)

    # -- requests

    def _send(self, emissions: list[Emission]) -> None:
        """Send emissions of one stage, and again later those without an answer."""
        left = [emission for emission in emissions if emission.body not in self._done]
        if left:
            for _ in range(self._copies()):
                self._environment.schedule(self._delay(), lambda: self._arrive(left))
            retry_after = self._random.choice((MINUTE, HOUR, 6 * HOUR))
            self._environment.schedule(retry_after, lambda: self._send(left))

    def _copies(self) -> int:
        if self._is_reliable:
            return 1
        return 0 if self._random.random() < self._loss_rate else self._random.choice((1, 1, 1, 2))

    def _delay(self) -> int:
        if not self._is_reliable and self._random.random() < self._delay_rate:
            return self._random.randrange(9 * HOUR)
        return self._random.choice((0, SECOND))

    def _burst(self) -> None:
        """Send up to 40 earlier events again at once."""
        environment, random = self._environment, self._random
        past = [emission for emission in self._emissions if emission.at <= environment.clock.true]
        chosen = random.sample(past, min(len(past), 40))
        environment.trace(f"BURST of {len(chosen)}")
        for stage in STAGES:
            some = [emission for emission in chosen if emission.stage == stage]
            size = random.choice((1, 5, MAX_BATCH_EVENTS))
            for first in range(0, len(some), size):
                environment.schedule(0, lambda some=some[first : first + size]: self._arrive(some))  # type: ignore[misc]

    def _arrive(self, emissions: Sequence[Emission]) -> None:
        cell = self._environment.cell
        if cell is None:
            return
        batch = len(emissions) > 1 or self._random.random() < 0.2
        request = Request(emissions[0].stage, [emission.body for emission in emissions], batch)
        self._pending.append((request, list(emissions)))
        cell.post(request)
        if not self._is_reliable and self._random.random() < 0.5:
            # Submit the request at once; otherwise the next `run_writer` does.
            cell.run_loop()

    # -- answers

    def collect_answers(self) -> None:
        """Collect the answers to requests. The cell may crash between two answers."""
        environment = self._environment
        under_way, self._pending = self._pending, []
        for request, emissions in under_way:
            if request.answer is None:
                self._pending.append((request, emissions))
                continue
            if not self._is_lost():
                self._check_answer(request, emissions)
        submitted, self._submitted = self._submitted, []
        for command, future in submitted:
            if not future.done():
                self._submitted.append((command, future))
            elif not self._is_lost() and future.exception() is None:
                self._check_command(command, future.result())
        if environment.disk.is_dead:
            self.drop_pending()

    def _is_lost(self) -> bool:
        """Return whether an answer is lost. Counts as a disk operation, because the cell may crash here."""
        disk = self._environment.disk
        disk.count_operation()
        return disk.is_dead or (not self._is_reliable and self._random.random() < self._loss_rate)

    def drop_pending(self) -> None:
        """Drop all requests without an answer, after a crash."""
        self._pending.clear()
        self._submitted.clear()

    def _check_answer(self, request: Request, emissions: list[Emission]) -> None:
        self._environment.trace(f"{request.status} to {[emission.event_id for emission in emissions]}")
        if request.batch and request.status == 207:
            results = [result["status"] for result in request.answer["results"]]
            named = [result["event_id"] for result in request.answer["results"]]
            require(named == [emission.event_id for emission in emissions], f"2: a batch answer lists {named}")
        else:
            known = {409: "conflict", 503: "unavailable", 400: "refused"}
            results = [request.answer.get("status") if request.status == 202 else known.get(request.status or 0)]
        for emission, result in zip(emissions, results, strict=True):
            self._check_result(emission, result)

    def _check_result(self, emission: Emission, result: str | None) -> None:
        id, environment = emission.event_id, self._environment
        if result == "refused":
            # Valid only if the cell's clock is behind, so that the event lies in its future.
            require(environment.clock.ahead < 0, f"2: {id} is refused")
        elif result == "conflict":
            first = environment.model.event(id)
            require(first and id in self._twins, f"2: {id} is new")
            self._done.add(emission.body)
        elif result != "unavailable":
            require(result in ("accepted", "duplicate"), f"2: {id} is answered {result}")
            require(result == "duplicate" or id not in self.answered, f"2: {id} is accepted twice")
            require(environment.model.event(id), f"2: {id} is answered {result} and not stored")
            self.answered.setdefault(id, result or "")
            self._done.add(emission.body)

    # -- operators

    def _send_command(self, command: OperatorCommand) -> None:
        if command.answer is not None:
            return
        environment = self._environment
        if environment.cell and self._copies():
            request = Command(command.id, command.invoice_id, "ann", environment.clock.now(), command.verb, "why")
            try:
                self._submitted.append((command, submit(environment.cell.writer, request)))
            except (QueueFull, Stopped):
                environment.trace(f"{command.id} was not taken")
        environment.schedule(HOUR, lambda: self._send_command(command))

    def _check_command(self, command: OperatorCommand, receipt: Receipt) -> None:
        environment = self._environment
        environment.trace(f"{command.id}, {command.verb} of {command.invoice_id}: {receipt}")
        if receipt.reason.startswith("it could not be carried out"):
            return
        entry = environment.model.command(command.id)
        require(entry, f"2: the command {command.id} is answered and not in the log")
        assert entry
        allowed = {"accepted": ("accepted",), "duplicate": ("accepted",), "refused": ("refused",)}[receipt.result]
        require(
            entry.receipt.result in allowed,
            f"2: the command {command.id} was answered {receipt}, and is {entry.receipt}",
        )
        command.answer = receipt.result

    def redrive_all(self) -> bool:
        """Redrive every dead letter as an operator does. Returns whether there were any."""
        cell, letters = self._environment.cell, self._environment.model.dead_letters
        if cell:
            with suppress(QueueFull, Stopped):
                for letter in letters:
                    submit(cell.writer, Redrive(letter))
        return bool(letters)

    def _redrive(self) -> None:
        self.redrive_all()

    def check(self) -> None:
        """Check at the end that every event and command was answered."""
        for emission in self._emissions:
            require(emission.body in self._done, f"2: {emission.event_id} was never answered")
        for command in self._commands:
            require(command.answer, f"2: {command.id} was never answered")
            entry = self._environment.model.command(command.id)
            require(entry is not None, f"2: {command.id} is not in the log")
