"""Recorder of boto3 calls. It can answer calls with fakes, fail them, and kill the function after a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import boto3
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders

REGION, ACCOUNT = "eu-west-1", "123456789012"

Fake = Callable[[dict[str, Any]], dict[str, Any]]


class FunctionKilled(BaseException):
    """The function was killed. A BaseException, so that only the test's code catches it."""


class ServiceError(Exception):
    """Raised by a fake to answer with an AWS error; `more` adds members to the response."""

    def __init__(self, code: str, status: int = 400, **more: Any) -> None:
        super().__init__(code)
        self.code, self.status, self.more = code, status, more


class Call(NamedTuple):
    """An API call with the parameters passed to the client."""

    operation: str
    params: dict[str, Any]


class Context:
    """Lambda context object."""

    function_name = "bems-test"
    memory_limit_in_mb = "256"
    aws_request_id = "request-1"
    invoked_function_arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:bems-test"

    def __init__(self, milliseconds: int = 60_000) -> None:
        self.milliseconds = milliseconds

    def get_remaining_time_in_millis(self) -> int:
        return self.milliseconds


class RecordedCalls:
    """Records the calls of boto3's default session. Fakes run after the client has validated the parameters."""

    def __init__(self, happened: Callable[[Call], None] = lambda _: None) -> None:
        self.calls: list[Call] = []
        self.fakes: dict[str, Fake] = {}
        self.kill_after: list[int] = []
        """Kill the function after this many calls, then again after the next number of further calls, and so on."""
        self._on_success = happened
        self._is_recording = True

    def install(self) -> None:
        boto3.setup_default_session(region_name=REGION, aws_access_key_id="x", aws_secret_access_key="y")
        assert boto3.DEFAULT_SESSION
        events = boto3.DEFAULT_SESSION.events
        events.register("provide-client-params", self._keep_params)
        events.register("before-call", self._before)
        events.register("after-call", self._after)

    def _keep_params(self, params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        context["params"] = params

    def _before(self, model: Any, context: dict[str, Any], **_: Any) -> Any:
        fake = self.fakes.get(model.name)
        if fake is None:
            return None
        try:
            parsed, status = fake(context["params"]), 200
        except ServiceError as refused:
            parsed, status = {"Error": {"Code": refused.code, "Message": refused.code}, **refused.more}, refused.status
        if parsed is PASS_THROUGH:
            return None
        parsed = {**parsed, "ResponseMetadata": {"HTTPStatusCode": status}}
        return AWSResponse("", status, HTTPHeaders(), None), parsed

    def _after(self, http_response: Any, model: Any, context: dict[str, Any], **_: Any) -> None:
        if not self._is_recording:
            return
        call = Call(model.name, context["params"])
        self.calls.append(call)
        if http_response.status_code == 200:
            self._on_success(call)
        if self.kill_after:
            self.kill_after[0] -= 1
            if self.kill_after[0] == 0:
                del self.kill_after[0]
                raise FunctionKilled(call.operation)

    @contextmanager
    def unrecorded(self) -> Iterator[None]:
        """Do not record calls in the block, which are the test's own."""
        seen, self._is_recording = self._is_recording, False
        try:
            yield
        finally:
            self._is_recording = seen


PASS_THROUGH: dict[str, Any] = {}
"""Returned by a fake to pass the call on to moto."""
