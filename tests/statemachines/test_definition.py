"""The definition: what must hold of the file whatever runs it."""

import json
from typing import Any

from bems.embedded.definition import definition_text

DEFINITION: dict[str, Any] = json.loads(definition_text())
STATES: dict[str, dict[str, Any]] = DEFINITION["States"]
