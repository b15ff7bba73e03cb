"""An item handed to a writer, as a future."""

from concurrent.futures import Future

from bems.embedded.writer import Item, ItemResult, Writer
from bems.tracker.decisions import Receipt


def submit(writer: Writer, item: Item) -> "Future[Receipt]":
    """What becomes of the item; raises what `Writer.submit` does."""
    future: Future[Receipt] = Future()

    def tell(answer: ItemResult) -> None:
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    writer.submit(item, tell)
    return future
