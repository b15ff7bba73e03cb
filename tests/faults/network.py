"""The network and who is behind it: source systems that send until they are answered, and operators.

Requests and answers are lost, doubled, late and out of order; events come alone, in batches, and ten times as many at
once.
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
from tests.faults.invariants import hold
from tests.faults.scenario import WEEKS, Emission, draw_verb, tell
from tests.faults.simulated_cell import Request

if TYPE_CHECKING:
    from tests.faults.environment import Environment

MOST = 20
"""Events in a batch."""


class Order(Struct):
    """A command that an operator gives until it is answered."""

    id: str
    invoice_id: str
    verb: Verb
    answer: str | None = None


class Network:
    """Everybody outside the cell. `answered`: what they were told of each event, first."""

    def __init__(self, world: "Environment", random: Random) -> None:
        self.answered: dict[str, str] = {}
        self._world, self._random = world, random
        self._sendings = tell(random)
        self.invoices = sorted({sending.invoice_id for sending in self._sendings})
        self._twins = {sending.event_id for sending in self._sendings if sending.twin}
        self._done: set[bytes] = set()
        self._under_way: list[tuple[Request, list[Emission]]] = []
        self._orders: list[Order] = []
        self._ordered: list[tuple[Order, Future[Receipt]]] = []
        self._loss = random.choice((0.0, 0.05, 0.3))
        self._slow = random.choice((0.0, 0.3))
        self._calm = False

    def begin(self) -> None:
        world, random = self._world, self._random
        now = world.clock.true
        for sending in self._sendings:
            world.plan(sending.at - now, lambda sending=sending: self._send([sending]))  # type: ignore[misc]
        for number in range(random.choice((0, 3, 10))):
            order = Order(f"c{number}", random.choice(self.invoices), draw_verb(random, now + WEEKS * 4 * DAY))
            self._orders.append(order)
            world.plan(random.randrange(WEEKS * 7 * DAY), lambda order=order: self._order(order))  # type: ignore[misc]
        for _ in range(random.choice((0, 0, 1, 3))):
            world.plan(random.randrange(WEEKS * 7 * DAY), self._burst)
        for _ in range(random.choice((0, 1, 5))):
            world.plan(random.randrange(WEEKS * 7 * DAY), self._redrive)

    def calm(self) -> None:
        self._calm = True
        for order in self._orders:
            self._order(order)

    # -- requests

    def _send(self, sendings: list[Emission]) -> None:
        """All of one stage. It is sent again later, if nothing is heard."""
        left = [sending for sending in sendings if sending.body not in self._done]
        if left:
            for _ in range(self._copies()):
                self._world.plan(self._delay(), lambda: self._arrive(left))
            patience = self._random.choice((MINUTE, HOUR, 6 * HOUR))
            self._world.plan(patience, lambda: self._send(left))

    def _copies(self) -> int:
        if self._calm:
            return 1
        return 0 if self._random.random() < self._loss else self._random.choice((1, 1, 1, 2))

    def _delay(self) -> int:
        if not self._calm and self._random.random() < self._slow:
            return self._random.randrange(9 * HOUR)
        return self._random.choice((0, SECOND))

    def _burst(self) -> None:
        """Whatever was told so far, once more, and ten times as much at once as ever."""
        world, random = self._world, self._random
        past = [sending for sending in self._sendings if sending.at <= world.clock.true]
        chosen = random.sample(past, min(len(past), 40))
        world.say(f"BURST of {len(chosen)}")
        for stage in STAGES:
            some = [sending for sending in chosen if sending.stage == stage]
            size = random.choice((1, 5, MOST))
            for first in range(0, len(some), size):
                world.plan(0, lambda some=some[first : first + size]: self._arrive(some))  # type: ignore[misc]

    def _arrive(self, sendings: Sequence[Emission]) -> None:
        life = self._world.life
        if life is None:
            return
        batch = len(sendings) > 1 or self._random.random() < 0.2
        request = Request(sendings[0].stage, [sending.body for sending in sendings], batch)
        self._under_way.append((request, list(sendings)))
        life.post(request)
        if not self._calm and self._random.random() < 0.5:
            # What comes in at the same moment is a turn together.
            life.run_loop()

    # -- answers

    def hear(self) -> None:
        """What was answered. Between two answers, the cell may die."""
        world = self._world
        under_way, self._under_way = self._under_way, []
        for request, sendings in under_way:
            if request.answer is None:
                self._under_way.append((request, sendings))
                continue
            if not self._gone():
                self._note(request, sendings)
        ordered, self._ordered = self._ordered, []
        for order, future in ordered:
            if not future.done():
                self._ordered.append((order, future))
            elif not self._gone() and future.exception() is None:
                self._note_order(order, future.result())
        if world.disk.dead:
            self.forget()

    def _gone(self) -> bool:
        """Whether an answer is lost."""
        disk = self._world.disk
        disk.tick()
        return disk.dead or (not self._calm and self._random.random() < self._loss)

    def forget(self) -> None:
        """Nobody will answer what was asked."""
        self._under_way.clear()
        self._ordered.clear()

    def _note(self, request: Request, sendings: list[Emission]) -> None:
        self._world.say(f"{request.status} to {[sending.event_id for sending in sendings]}")
        if request.batch and request.status == 207:
            results = [result["status"] for result in request.answer["results"]]
            named = [result["event_id"] for result in request.answer["results"]]
            hold(named == [sending.event_id for sending in sendings], f"2: a batch is answered as {named}")
        else:
            known = {409: "conflict", 503: "unavailable", 400: "refused"}
            results = [request.answer.get("status") if request.status == 202 else known.get(request.status or 0)]
        for sending, result in zip(sendings, results, strict=True):
            self._note_result(sending, result)

    def _note_result(self, sending: Emission, result: str | None) -> None:
        id, world = sending.event_id, self._world
        if result == "refused":
            # Its clock went back, and the event is one of tomorrow.
            hold(world.clock.ahead < 0, f"2: {id} is refused")
        elif result == "conflict":
            first = world.model.event(id)
            hold(first and id in self._twins, f"2: {id} is new")
            self._done.add(sending.body)
        elif result != "unavailable":
            hold(result in ("accepted", "duplicate"), f"2: {id} is answered {result}")
            hold(result == "duplicate" or id not in self.answered, f"2: {id} is accepted twice")
            hold(world.model.event(id), f"2: {id} is answered {result} and not stored")
            self.answered.setdefault(id, result or "")
            self._done.add(sending.body)

    # -- operators

    def _order(self, order: Order) -> None:
        if order.answer is not None:
            return
        world = self._world
        if world.life and self._copies():
            command = Command(order.id, order.invoice_id, "ann", world.clock.now(), order.verb)
            try:
                self._ordered.append((order, submit(world.life.writer, command)))
            except (QueueFull, Stopped):
                world.say(f"{order.id} was not taken")
        world.plan(HOUR, lambda: self._order(order))

    def _note_order(self, order: Order, receipt: Receipt) -> None:
        world = self._world
        world.say(f"{order.id}, {order.verb} of {order.invoice_id}: {receipt}")
        if receipt.reason.startswith("it could not be carried out"):
            return
        entry = world.model.command(order.id)
        hold(entry, f"2: the command {order.id} is answered and not in the log")
        assert entry
        told = {"accepted": ("accepted",), "duplicate": ("accepted",), "refused": ("refused",)}[receipt.result]
        hold(entry.receipt.result in told, f"2: the command {order.id} was answered {receipt}, and is {entry.receipt}")
        order.answer = receipt.result

    def redrive_all(self) -> bool:
        """An operator has every dead letter handled again; whether there were any."""
        life, letters = self._world.life, self._world.model.letters
        if life:
            with suppress(QueueFull, Stopped):
                for letter in letters:
                    submit(life.writer, Redrive(letter))
        return bool(letters)

    def _redrive(self) -> None:
        self.redrive_all()

    def check(self) -> None:
        """In the end, everybody has been told."""
        for sending in self._sendings:
            hold(sending.body in self._done, f"2: {sending.event_id} was never answered")
        for order in self._orders:
            hold(order.answer, f"2: {order.id} was never answered")
            entry = self._world.model.command(order.id)
            hold(entry is not None, f"2: {order.id} is not in the log")
