"""The floor, and the multiple of it that limits the cost of an event."""

import asyncio
import json
from pathlib import Path

import pytest

from bench import __main__ as command
from bench.cell import Cell
from bench.client import Client, Connection
from bench.events import Event, lifecycles
from bench.figures import Figure, floor
from bench.figures.floor import Costs
from bench.floor import LOG, Floor


def send(client: Client, events: list[Event]) -> list[tuple[int, bytes]]:
    async def sending() -> list[tuple[int, bytes]]:
        connection: Connection = client.connect()
        answers = [await connection.request("POST", f"/invoices/{one.stage}", one.body) for one in events]
        await connection.close_and_wait()
        return answers

    return asyncio.run(sending())


def stored_bodies(path: Path) -> list[bytes]:
    """Return the bodies in the order in which they were appended."""
    content, bodies = path.read_bytes(), []
    while content:
        length, _, rest = content.partition(b"\n")
        bodies.append(rest[: int(length)])
        content = rest[int(length) + 1 :]
    return bodies


@pytest.mark.parametrize("gate", [False, True])
def test_accepted_bodies_are_in_the_file_and_only_the_gate_validates_them(tmp_path: Path, gate: bool) -> None:
    events = lifecycles(3)
    broken = Event("ingestion", "", "", b'{"event_id": 7}')
    with Floor(tmp_path / "floor", gate=gate) as running:
        answers = send(running.client, [*events, broken])
        assert [status for status, _ in answers] == [202] * len(events) + [400 if gate else 202]
        assert all(json.loads(body)["status"] == "accepted" for _, body in answers[: len(events)])
        sent = [event.body for event in [*events, *([] if gate else [broken])]]
        assert stored_bodies(tmp_path / "floor" / LOG) == sent, "a body is stored before the response"


def test_the_floors_and_the_cell_are_measured_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[tuple[str, int]] = []

    def cost(engine: Floor | Cell, events: list[Event], connections: int) -> float:
        turns.append((type(engine).__name__, connections))
        return floor.run(engine, events, connections)[0].accepted * (2.0 if isinstance(engine, Cell) else 0.5)

    monkeypatch.setattr(floor, "cost", cost)
    for name, number in {"ROUNDS": 2, "INVOICES": 5, "WARM_UP_INVOICES": 5}.items():
        monkeypatch.setattr(floor, name, number)
    figures = list(floor.measure(tmp_path))
    assert turns == [(name, number) for number in (200, 32) for _ in range(2) for name in ("Floor", "Floor", "Cell")]
    assert [figure.measured.partition(" x")[0] for figure in figures[::2]] == ["4.0", "4.0"]
    assert [figure.is_met for figure in figures[::2]] == [True, True]
    assert [figure.is_met for figure in floor.measure(tmp_path / "again", budget=3.9)][::2] == [False, False]


def test_the_multiple_is_the_median_of_the_rounds() -> None:
    costs = Costs([0.04, 0.04, 0.04], [0.1, 0.08, 0.2], [0.4, 0.4, 0.4])
    assert costs.multiple() == pytest.approx(4.0), "one slow round of the floor does not change the median"
    assert costs.describe_rounds() == "2.00 to 5.00"


@pytest.mark.parametrize(
    ("met", "arguments", "code"), [(False, ["--check"], 1), (True, ["--check"], 0), (False, [], 0)]
)
def test_the_check_exits_with_1_if_a_figure_misses_its_required_value(
    met: bool, arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    budgets: list[float] = []

    def measure(_: Path, budget: float) -> list[Figure]:
        budgets.append(budget)
        return [Figure("the multiple", "4.5 x", f"{budget} x", "", met), Figure("no target", "1")]

    monkeypatch.setattr(floor, "measure", measure)
    monkeypatch.setattr(command, "calibrate", lambda: 1.0)
    monkeypatch.setattr(command, "calibrate_beside_others", lambda: 1.0)
    monkeypatch.setattr("sys.argv", ["bench", "floor", "--dry", "--budget", "4.8", *arguments])
    if code:
        with pytest.raises(SystemExit) as ended:
            command.main()
        assert "the multiple: 4.5 x; required: 4.8 x" in str(ended.value.code)
    else:
        command.main()
    assert budgets == [4.8]
    assert "4.5 x" in capsys.readouterr().err
