"""The definition: statemachines/invoice_lifecycle.asl.json, the one that AWS runs too."""

from importlib.resources import files
from pathlib import Path

from bems.engine import Machine, load

REGISTER_WAIT = "RegisterWaitFunction"
ESCALATE = "EscalateFunction"


def read_definition() -> str:
    """The definition as it is deployed, with its placeholders: from the source tree, or from an installed wheel."""
    source = Path(__file__).parents[2] / "statemachines" / "invoice_lifecycle.asl.json"
    if source.is_file():
        return source.read_text()
    return files("bems").joinpath("statemachines", "invoice_lifecycle.asl.json").read_text()


def read_resolved_definition() -> str:
    """The definition as it runs here: its functions' placeholders are their names."""
    text = read_definition()
    for name in (REGISTER_WAIT, ESCALATE):
        text = text.replace(f"${{{name}}}", name)
    return text


def compile_definition(text: str) -> Machine:
    """A definition of now or before as it runs here."""
    return load(text, resources={"lambda:invoke"})


def load_machine() -> Machine:
    """The definition of now, compiled."""
    return compile_definition(read_resolved_definition())
