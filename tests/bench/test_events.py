"""Events that every engine gets."""

import json
from collections import Counter, defaultdict
from datetime import UTC, datetime

from bems.tracker.contract import STAGES, Event
from bems.tracker.instants import from_datetime
from bems.tracker.parsing import parse_batch, parse_event
from bench.events import batches, ingestions, lifecycles
from bench.figures.million import with_short_deadline


def test_each_invoice_has_four_valid_events_that_occur_now() -> None:
    events, now = lifecycles(50, prefix="T"), from_datetime(datetime.now(UTC))
    stages = defaultdict[str, list[str]](list)
    for sent in events:
        parsed = parse_event(sent.stage, sent.body, now)  # type: ignore[arg-type]
        assert isinstance(parsed, Event)
        assert (parsed.event_id, parsed.invoice_id, parsed.stage) == (sent.event_id, sent.invoice_id, sent.stage)
        assert abs(now - parsed.occurred_at) < 60_000_000, "no deadline has passed"
        stages[sent.invoice_id].append(sent.stage)
    assert len(stages) == 50 and set(map(tuple, stages.values())) == {STAGES}
    assert len({event.event_id for event in events}) == 200
    assert len(list(ingestions(events))) == 50
    assert not {event.event_id for event in events} & {event.event_id for event in lifecycles(50, prefix="U")}


def test_batches_have_the_same_events_in_the_same_order() -> None:
    events = lifecycles(120, prefix="T")
    sent = list(batches(events))
    assert sum(batch.number for batch in sent) == len(events)
    by_stage = defaultdict[str, list[str]](list)
    for batch in sent:
        stage = batch.stage.removesuffix("/batch")
        parsed = parse_batch(stage, batch.body, from_datetime(datetime.now(UTC)))  # type: ignore[arg-type]
        assert isinstance(parsed, list) and len(parsed) == batch.number <= 100
        by_stage[stage] += [one.event_id for one in parsed if isinstance(one, Event)]
    assert by_stage == {stage: [event.event_id for event in events if event.stage == stage] for stage in STAGES}
    assert Counter(batch.number for batch in sent)[100] == 4


def test_events_with_a_short_deadline_differ_only_in_their_vendor() -> None:
    for event in lifecycles(20):
        before, after = json.loads(event.body), json.loads(with_short_deadline(event.body))
        assert after["vendor"].pop("id") == "HURRIED" != before["vendor"].pop("id")
        assert after == before
