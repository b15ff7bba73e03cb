"""Progress bars on a terminal."""

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn


def progress_bar(label: str, *figures: ProgressColumn | str) -> Progress:
    """Return a progress bar on standard error: a label, the bar, figures, and the time left. In a pipe it is hidden."""
    console = Console(stderr=True, highlight=False)
    columns = [TextColumn(one) if isinstance(one, str) else one for one in (label, BarColumn(), *figures)]
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
