"""Names: what a cell's resources are called. They are fixed, so that an ARN can be written before its resource
exists."""

from dataclasses import dataclass

from bems.tracker.actions import Severity
from bems.tracker.contract import Stage
from bems.tracker.eventbridge_names import detail_type


@dataclass(frozen=True)
class Names:
    """The names of one cell. FIFO topics and queues must end in `.fifo`, so `fifo` is part of some."""

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
        """The queue of what a bus, a schedule or an asynchronous invocation could not hand on. Buses that have rules
        take only a standard queue for that, so it is one in every cell."""
        return f"{self.prefix}-undelivered"

    @property
    def unrecorded(self) -> str:
        """The queue of stream records that the recorder cannot read, whole, and of pointers to those that the time
        series did not take."""
        return f"{self.prefix}-unrecorded"

    def function(self, id: str) -> str:
        """The name of a function, such as `bems-eu-west-InvoicePostingProcessor`."""
        return f"{self.prefix}-{id}"

    def stage(self, stage: Stage) -> str:
        """The name of a stage's topic, and of its queue."""
        return f"{self.prefix}-{stage}{self._suffix}"

    def dead_letters(self, stage: Stage) -> str:
        return f"{self.prefix}-{stage}-dead-letters{self._suffix}"

    def alerts(self, severity: Severity) -> str:
        return f"{self.prefix}-alerts-{severity}"

    @property
    def _suffix(self) -> str:
        return ".fifo" if self.fifo else ""


def processor_function(stage: Stage) -> str:
    """The noun of a stage's processor, such as `InvoicePostingProcessor`."""
    return f"{detail_type(stage)}Processor"
