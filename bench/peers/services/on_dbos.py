"""An invoice as a workflow of DBOS, which waits for a message of each stage. Its id is the invoice's."""

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from dbos import DBOS, SetWorkflowID
from fastapi import FastAPI, Request, Response

DEADLINES = {"authorization": 3 * 86400, "reconciliation": 5 * 86400, "posting": 20 * 86400}

DBOS(
    config={
        "name": "invoices",
        "system_database_url": os.environ["DBOS_SYSTEM_DATABASE_URL"],
        "log_level": "WARNING",
        "application_version": "1",
    }
)


@DBOS.workflow()
async def invoice(event: dict[str, Any]) -> list[Any]:
    """From ingestion to posting; what is answered is the transitions."""
    transitions = [["ingestion", event["status"], event["occurred_at"]]]
    for stage, seconds in DEADLINES.items():
        while (message := await DBOS.recv_async(stage, timeout_seconds=seconds)) is None:
            transitions.append([stage, "overdue", None])
        transitions.append([stage, message["status"], message["occurred_at"]])
    return transitions


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    # DBOS works on the loop's threads, of which there are few where processors are; it has 20 connections.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(20))
    DBOS.launch()
    yield
    DBOS.destroy()


app = FastAPI(lifespan=lifespan)


@app.get("/health")
async def health() -> Response:
    return Response()


@app.post("/invoices/{stage}")
async def receive_event(stage: str, request: Request) -> Response:
    """A repeat is harmless: the same workflow id, or the same idempotency key."""
    event = await request.json()
    if stage == "ingestion":
        with SetWorkflowID(event["invoice_id"]):
            await DBOS.start_workflow_async(invoice, event)
    else:
        await DBOS.send_async(event["invoice_id"], event, topic=stage, idempotency_key=event["event_id"])
    return Response(status_code=202)
