"""The wire between the functions and AWS: every call seen, any of them answered here, failed, or cut off after it."""

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
    """The function's process is gone. Nothing catches it but the world around it."""


class ServiceError(Exception):
    """A fake's answer is this error; `more` is beside it in the response."""

    def __init__(self, code: str, status: int = 400, **more: Any) -> None:
        super().__init__(code)
        self.code, self.status, self.more = code, status, more


class Call(NamedTuple):
    """One API call, as the client was asked for it."""

    operation: str
    params: dict[str, Any]


class Context:
    """Lambda's context."""

    function_name = "bems-test"
    memory_limit_in_mb = "256"
    aws_request_id = "request-1"
    invoked_function_arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:bems-test"

    def __init__(self, milliseconds: int = 60_000) -> None:
        self.milliseconds = milliseconds

    def get_remaining_time_in_millis(self) -> int:
        return self.milliseconds


class RecordedCalls:
    """The calls of boto3's default session. Fakes stand behind the client's own checks of its parameters."""

    def __init__(self, happened: Callable[[Call], None] = lambda _: None) -> None:
        self.calls: list[Call] = []
        self.fakes: dict[str, Fake] = {}
        self.kill_after: list[int] = []
        """The function dies right after so many calls; then again after so many more; ..."""
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
        context["asked"] = params

    def _before(self, model: Any, context: dict[str, Any], **_: Any) -> Any:
        fake = self.fakes.get(model.name)
        if fake is None:
            return None
        try:
            parsed, status = fake(context["asked"]), 200
        except ServiceError as refused:
            parsed, status = {"Error": {"Code": refused.code, "Message": refused.code}, **refused.more}, refused.status
        if parsed is PASS_THROUGH:
            return None
        parsed = {**parsed, "ResponseMetadata": {"HTTPStatusCode": status}}
        return AWSResponse("", status, HTTPHeaders(), None), parsed

    def _after(self, http_response: Any, model: Any, context: dict[str, Any], **_: Any) -> None:
        if not self._is_recording:
            return
        call = Call(model.name, context["asked"])
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
        """Calls of the test's own."""
        seen, self._is_recording = self._is_recording, False
        try:
            yield
        finally:
            self._is_recording = seen


PASS_THROUGH: dict[str, Any] = {}
"""A fake that answers this lets the call go on to moto."""
