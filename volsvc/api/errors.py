"""Errors as answers, in the shape that Cinder's clients read: ``{"badRequest": {"code", "message"}}``."""

from __future__ import annotations

import json
from typing import Any

import falcon

from volsvc import exceptions as exc

# Cinder's names (cinder/api/openstack/wsgi.py); any other code is a computeFault.
FAULT_NAMES = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    409: "conflictingRequest",
    413: "overLimit",
    415: "badMediaType",
    501: "notImplemented",
    503: "serviceUnavailable",
}
# Cinder gives this to clients with each 413, so that they read it.
RETRY_AFTER = "0"


class BodyTooLarge(exc.VolsvcError):
    template = "The request body has more than {limit} bytes, which is osapi_max_request_body_size."
    code = 413


class NoSuchRoute(exc.NotFound):
    template = "The resource could not be found."


class PreconditionFailed(exc.VolsvcError):
    template = "The metadata has changed since it was read: read it again, then repeat the change."
    code = 412


def fault_body(code: int, message: str) -> dict[str, Any]:
    """The body of an error answer."""
    fault: dict[str, Any] = {"code": code, "message": message}
    if code == 413:
        fault["retryAfter"] = RETRY_AFTER
    return {FAULT_NAMES.get(code, "computeFault"): fault}


def write_fault(resp: falcon.Response, code: int, message: str) -> None:
    """Turn the response into an error answer."""
    resp.status = code
    resp.content_type = falcon.MEDIA_JSON
    resp.data = json.dumps(fault_body(code, message)).encode()
    resp.text = None
    if code == 413:
        resp.set_header("Retry-After", RETRY_AFTER)


def describe_failure(error: exc.VolsvcError, request_id: str) -> tuple[int, str]:
    """Code and message for an error raised on purpose; what may hold a server's internals is left to the log."""
    if isinstance(error, exc.StoreUnavailable):
        return (
            error.code,
            f"The database can't be reached at the moment; try again. The service's log has {request_id}.",
        )
    if type(error) is exc.VolsvcError:
        return 500, unexpected_message(request_id)
    # Loaded when it is needed: it takes longer than all of this package.
    from oslo_utils import strutils

    return error.code, strutils.mask_password(str(error))


def unexpected_message(request_id: str) -> str:
    return (
        "An unexpected error happened and the request was not finished. "
        f"The service's log has the details under {request_id}."
    )
