"""An invoice as an execution of moto's Step Functions, which waits for a callback of each stage.

It avoids all costs that can be avoided. It calls moto's backend without boto3 and signatures. The state machine's
function, for which moto would start a container, is called in process. The definition is parsed once, while moto parses
it at every start.
"""

import asyncio
import functools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from moto import mock_aws
from moto.stepfunctions.parser.asl.component.state.exec.state_task import lambda_eval_utils
from moto.stepfunctions.parser.asl.parse.asl_parser import AmazonStateLanguageParser
from moto.stepfunctions.parser.models import stepfunctions_parser_backends
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

DEADLINES = {"authorization": 3 * 86400, "reconciliation": 5 * 86400, "posting": 20 * 86400}
ACCOUNT, REGION = "123456789012", "us-east-1"


def definition() -> str:
    """Return a state machine with three waits, each of which restarts at its deadline."""
    states: dict[str, Any] = {"Posted": {"Type": "Succeed"}}
    for stage, following in zip(DEADLINES, (*list(DEADLINES)[1:], "Posted"), strict=True):
        payload = {"invoice_id.$": "$$.Execution.Input.invoice_id", "stage": stage, "token.$": "$$.Task.Token"}
        states[stage] = {
            "Type": "Task",
            "Resource": "arn:aws:states:::lambda:invoke.waitForTaskToken",
            "Parameters": {"FunctionName": "Register", "Payload": payload},
            "TimeoutSeconds": DEADLINES[stage],
            "Catch": [{"ErrorEquals": ["States.Timeout"], "Next": stage}],
            "Next": following,
        }
    return json.dumps({"StartAt": "authorization", "States": states})


class Invoices:
    """Executions and their task tokens."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._backend = stepfunctions_parser_backends[ACCOUNT][REGION]
        role = f"arn:aws:iam::{ACCOUNT}:role/invoices"
        self._arn = self._backend.create_state_machine("invoices", definition(), role).arn
        self._tokens: dict[tuple[str, str], asyncio.Future[str]] = {}
        self._seen: set[str] = set()

    def register(self, parameters: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Store a task token. The state machine calls this function in a separate thread."""
        payload = parameters["Payload"]
        payload = json.loads(payload) if isinstance(payload, str | bytes) else payload
        self._loop.call_soon_threadsafe(self._resolve_token, payload["invoice_id"], payload["stage"], payload["token"])
        return {"ExecutedVersion": "$LATEST", "Payload": {}, "StatusCode": 200}

    def _resolve_token(self, invoice_id: str, stage: str, token: str) -> None:
        self._token_future(invoice_id, stage).set_result(token)

    def _token_future(self, invoice_id: str, stage: str) -> asyncio.Future[str]:
        return self._tokens.setdefault((invoice_id, stage), self._loop.create_future())

    async def receive_event(self, request: Request) -> Response:
        """Start the execution or complete its task, waiting for the task token if necessary."""
        stage, event = request.path_params["stage"], await request.json()
        if event["event_id"] in self._seen:
            return Response(status_code=202)
        self._seen.add(event["event_id"])
        invoice_id = event["invoice_id"]
        if stage == "ingestion":
            self._backend.start_execution(self._arn, invoice_id.replace("/", "-"), json.dumps(event))
        else:
            token = await self._token_future(invoice_id, stage)
            del self._tokens[invoice_id, stage]
            self._backend.send_task_success(token, json.dumps({"status": event["status"]}))
        return Response(status_code=202)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    with mock_aws(config={"stepfunctions": {"execute_state_machine": True}}):
        invoices = Invoices()
        lambda_eval_utils._invoke_lambda_function = invoices.register  # type: ignore[assignment]
        parse = functools.cache(AmazonStateLanguageParser.parse)
        AmazonStateLanguageParser.parse = parse  # type: ignore[method-assign]
        app.add_route("/invoices/{stage}", invoices.receive_event, methods=["POST"])
        yield


async def health(_: Request) -> Response:
    return Response()


app = Starlette(routes=[Route("/health", health)], lifespan=lifespan)
