"""Write the golden log and its results."""

import gzip
import json
from pathlib import Path

from bems.embedded.replay.replay import replay
from bems.generator.event_log import generate
from bems.tracker.instants import parse
from tests.embedded.replay.test_replay import POLICY, TODAY, golden_results

HERE = Path(__file__).parent

if __name__ == "__main__":
    log = list(generate(300, 2026, days=60))
    (HERE / "synthetic.jsonl.gz").write_bytes(gzip.compress(b"".join(log), 9, mtime=0))
    results = golden_results(replay(log, POLICY, TODAY, parse("2026-06-01T00:00:00Z")))
    (HERE / "synthetic.golden.json").write_text(json.dumps(results, indent=None, separators=(",", ":")) + "\n")
