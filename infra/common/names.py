"""Names of a cell's resources.

They are fixed rather than generated, so that an ARN can be written before its resource exists.
"""

from dataclasses import dataclass

from bems.tracker.actions import Severity
from bems.tracker.contract import Stage
from bems.tracker.eventbridge_names import detail_type


@dataclass(frozen=True)
class Names:
    """Resource names of one cell. With `fifo`, the names of stage topics and queues end in `.fifo`, as AWS requires."""

    cell: str
    fifo: bool

    @property
    def prefix(self) -> str:
        return f"bems-{self.cell}"

    @property
    def state_machine(self) -> str:
        return f"{self.prefix}-invoice-lifecycle"

    @property
    def undelivered(self) -> str:
        """Name of the dead-letter queue of buses, schedules, webhooks and asynchronous invocations.

        It is a standard queue in every cell, because the rules of a classic bus accept no FIFO dead-letter queue.
        """
        return f"{self.prefix}-undelivered"

    @property
    def unrecorded(self) -> str:
        """Name of the recorder's dead-letter queue.

        It holds stream records that the recorder cannot read, in full, and pointers to stream records that it could not
        write to the time series.
        """
        return f"{self.prefix}-unrecorded"

    def function(self, id: str) -> str:
        """Return the name of a function by its construct id, for example `bems-eu-west-InvoicePostingProcessor`."""
        return f"{self.prefix}-{id}"

    def stage(self, stage: Stage) -> str:
        """Return the name that a stage's topic and queue share."""
        return f"{self.prefix}-{stage}{self._suffix}"

    def dead_letters(self, stage: Stage) -> str:
        return f"{self.prefix}-{stage}-dead-letters{self._suffix}"

    def alerts(self, severity: Severity) -> str:
        return f"{self.prefix}-alerts-{severity}"

    @property
    def _suffix(self) -> str:
        return ".fifo" if self.fifo else ""


def processor_function(stage: Stage) -> str:
    """Return the construct id of a stage's processor, for example `InvoicePostingProcessor`."""
    return f"{detail_type(stage)}Processor"
