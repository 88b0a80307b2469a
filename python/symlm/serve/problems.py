"""Errors in OpenAI's form."""

from __future__ import annotations

from typing import Any

from ..errors import InternalError, SymlmError, UsageError, printable

BAD_REQUEST = 400
TOO_LONG = "context_length_exceeded"

_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class Problem(Exception):
    """A request that is not answered as it asks. `parameter` is the field that is to blame, `code` what programs
    know it by, and `headers` go with the answer."""

    def __init__(
        self,
        message: str,
        *,
        status: int = BAD_REQUEST,
        parameter: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = printable(message)
        self.status = status
        self.parameter = None if parameter is None else printable(parameter)
        self.code = code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """The object that clients of OpenAI read."""
        kind = _KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.parameter, "code": self.code}}


def of_error(error: SymlmError, parameter: str | None = None) -> Problem:
    """An error of symlm: the request is to blame for values that are not valid, and else the server."""
    hint = "" if error.hint is None or isinstance(error, InternalError) else f" ({error.hint})"
    status = BAD_REQUEST if isinstance(error, UsageError) else 500
    return Problem(error.message + hint, status=status, parameter=parameter)


def too_long(prompt: int, asked: int, context: int, parameter: str) -> Problem:
    """More tokens than the model has positions for."""
    what = f"{prompt:,} in the prompt" + (f" and {asked:,} to write" if asked else "")
    return Problem(
        f"found {what}, expected at most {context:,} tokens together, the context of this model; a prompt is never cut",
        parameter=parameter,
        code=TOO_LONG,
    )
