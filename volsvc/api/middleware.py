"""What happens to every request: its id, who asks, which microversion, its path; and the access log."""

from __future__ import annotations

import re
import time
import urllib.parse
import uuid
from collections.abc import Callable
from typing import Any

import falcon
from oslo_log import log as logging

from volsvc import exceptions as exc
from volsvc import models
from volsvc.api import bodies, errors, microversions
from volsvc.api.auth import DEFAULT_PROJECT, Authenticator
from volsvc.api.call import Call, Parts

LOG = logging.getLogger("volsvc.api.access")

_REQUEST_ID = re.compile(r"^req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
_PROJECT = re.compile(r"^[^\x00-\x1f/?#%]{1,255}$")


class RequestMiddleware:
    """Builds the ``Call``; rewrites ``/v3/{project}/...`` to ``/v3/...``, so that both are one route."""

    def __init__(
        self, parts: Parts, authenticator: Authenticator, *, collections: frozenset[str], public: frozenset[str]
    ) -> None:
        """``collections``: the first segments of all paths; ``public``: paths that need no authentication."""
        self._parts = parts
        self._authenticator = authenticator
        self._collections = collections
        self._public = public
        self._public_endpoint = (parts.settings.public_endpoint or "").rstrip("/")
        self._body_limit: int = parts.settings.osapi_max_request_body_size

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        asked_id = req.get_header("X-Openstack-Request-Id")
        request_id = asked_id if asked_id and _REQUEST_ID.match(asked_id) else f"req-{uuid.uuid4()}"
        call = Call(self._parts, request_id)
        req.context.call = call
        call.base_url = self._public_endpoint or req.prefix
        if req.path in self._public:
            return
        call.version = microversions.parse(req.get_header(microversions.HEADER))
        bodies.check_length(req, self._body_limit)
        call.query_string = req.query_string
        call.if_match = req.get_header("If-Match")
        identity = self._authenticator.identify(req)
        project_in_url = self._strip_project(req, identity.project_id)
        call.project_in_url = project_in_url
        if identity.project_id is not None and project_in_url not in (None, identity.project_id):
            raise exc.InvalidInput(
                "Malformed request url: the project in it is not the one of the token; use one and the same"
            )
        call.ctx = models.RequestContext(
            user_id=identity.user_id,
            project_id=identity.project_id or project_in_url or DEFAULT_PROJECT,
            is_admin=identity.is_admin,
            roles=identity.roles,
            request_id=request_id,
        )

    def process_response(self, req: falcon.Request, resp: falcon.Response, resource: Any, succeeded: bool) -> None:
        call: Call | None = getattr(req.context, "call", None)
        if call is None:
            return
        resp.set_header("x-openstack-request-id", call.request_id)
        resp.set_header("x-compute-request-id", call.request_id)
        if req.path.startswith("/v3"):
            resp.set_header(microversions.HEADER, f"volume {microversions.text(call.version)}")
            resp.set_header("Vary", microversions.HEADER)
        if LOG.isEnabledFor(20):
            LOG.info(
                "%s %s %s %s %.1f ms [%s %s]",
                req.remote_addr or "unix",
                req.method,
                printable_path(req),
                resp.status_code,
                (time.perf_counter() - call.started) * 1000,
                call.request_id,
                call.ctx.project_id or "-",
            )

    def _strip_project(self, req: falcon.Request, token_project: str | None) -> str | None:
        """Take the project out of the path; None when there is none.

        A project may be called as a collection is: then the token's project decides.
        """
        if "\0" in req.path:
            raise errors.NoSuchRoute()
        parts = req.path.split("/", 3)
        if len(parts) < 4 or parts[0] or parts[1] not in ("v3", "v2"):
            return None
        first, rest = parts[2], parts[3]
        if first in self._collections and not (first == token_project and rest.partition("/")[0] in self._collections):
            return None
        if not _PROJECT.match(first):
            raise errors.NoSuchRoute()
        req.path = f"/{parts[1]}/{rest}"
        return first


def printable_path(req: falcon.Request) -> str:
    """The path for a log line: quoted, so that nothing in it can look like another line."""
    return urllib.parse.quote(req.env.get("PATH_INFO", ""), safe="/:@!$&'()*+,;=~-._", encoding="latin-1")


def build_error_handlers(log: Any) -> list[tuple[type[Exception], Callable[..., None]]]:
    """(exception class, falcon handler) pairs; each turns an exception into an answer in Cinder's shape."""

    def on_our_error(req: falcon.Request, resp: falcon.Response, error: Exception, params: Any) -> None:
        assert isinstance(error, exc.VolsvcError)
        request_id = _request_id(req)
        code, message = errors.describe_failure(error, request_id)
        if code >= 500:
            log.warning("%s %s failed [%s]: %s", req.method, printable_path(req), request_id, exc.describe(error))
        errors.write_fault(resp, code, message)
        if code == 401:
            resp.set_header("WWW-Authenticate", 'Basic realm="volsvc"')

    def on_http_error(req: falcon.Request, resp: falcon.Response, error: Exception, params: Any) -> None:
        assert isinstance(error, falcon.HTTPError)
        code = error.status_code
        if isinstance(error, falcon.HTTPRouteNotFound):
            message = "The resource could not be found."
        elif isinstance(error, falcon.HTTPMethodNotAllowed):
            message = f"The method {req.method} is not allowed for this resource."
        else:
            message = error.description or error.title or "The request could not be served."
        errors.write_fault(resp, code, message)
        for name, value in dict(error.headers or {}).items():
            if name.lower() == "allow":
                resp.set_header(name, value)

    def on_anything_else(req: falcon.Request, resp: falcon.Response, error: Exception, params: Any) -> None:
        request_id = _request_id(req)
        log.error("%s %s broke [%s]", req.method, printable_path(req), request_id, exc_info=error)
        errors.write_fault(resp, 500, errors.unexpected_message(request_id))

    return [(Exception, on_anything_else), (falcon.HTTPError, on_http_error), (exc.VolsvcError, on_our_error)]


def _request_id(req: falcon.Request) -> str:
    call: Call | None = getattr(req.context, "call", None)
    return call.request_id if call is not None else "-"
