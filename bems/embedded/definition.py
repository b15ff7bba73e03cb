"""State machine definition: statemachines/invoice_lifecycle.asl.json, which AWS runs too."""

from importlib.resources import files
from pathlib import Path

from bems.engine import Machine, load

REGISTER_WAIT = "RegisterWaitFunction"
ESCALATE = "EscalateFunction"


def read_definition() -> str:
    """Return the definition as it is deployed, with its placeholders, from the source tree or an installed wheel."""
    source = Path(__file__).parents[2] / "statemachines" / "invoice_lifecycle.asl.json"
    if source.is_file():
        return source.read_text()
    return files("bems").joinpath("statemachines", "invoice_lifecycle.asl.json").read_text()


def read_resolved_definition() -> str:
    """Return the definition as it runs here: each function's placeholder is replaced by the function's name."""
    text = read_definition()
    for name in (REGISTER_WAIT, ESCALATE):
        text = text.replace(f"${{{name}}}", name)
    return text


def compile_definition(text: str) -> Machine:
    """Compile the text of a definition, current or older, with the integrations of this runtime."""
    return load(text, resources={"lambda:invoke"})


def load_machine() -> Machine:
    """Return the current definition, compiled."""
    return compile_definition(read_resolved_definition())
