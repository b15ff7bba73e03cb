"""An invoice as a DBOS workflow, which waits for a message of each stage. The workflow id is the invoice id."""

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
    """Wait for the stages from ingestion to posting and return the transitions."""
    transitions = [["ingestion", event["status"], event["occurred_at"]]]
    for stage, seconds in DEADLINES.items():
        while (message := await DBOS.recv_async(stage, timeout_seconds=seconds)) is None:
            transitions.append([stage, "overdue", None])
        transitions.append([stage, message["status"], message["occurred_at"]])
    return transitions


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    # DBOS uses the loop's thread pool, which is small with few processors. DBOS has 20 database connections.
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
    """Start or signal the workflow. Idempotent by workflow id or idempotency key."""
    event = await request.json()
    if stage == "ingestion":
        with SetWorkflowID(event["invoice_id"]):
            await DBOS.start_workflow_async(invoice, event)
    else:
        await DBOS.send_async(event["invoice_id"], event, topic=stage, idempotency_key=event["event_id"])
    return Response(status_code=202)
