"""Submit an item to a writer and get a future."""

from concurrent.futures import Future

from bems.embedded.writer import Item, ItemResult, Writer
from bems.tracker.decisions import Receipt


def submit(writer: Writer, item: Item) -> "Future[Receipt]":
    """Submit the item and return the future of its receipt. Raises as `Writer.submit` does."""
    future: Future[Receipt] = Future()

    def on_result(result: ItemResult) -> None:
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)

    writer.submit(item, on_result)
    return future
