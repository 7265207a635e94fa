"""The falcon application, put together from the table."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, TypeAlias

import falcon
from oslo_log import log as logging

from volsvc.api.auth import Authenticator, build_authenticator
from volsvc.api.call import Parts
from volsvc.api.dispatch import Resource
from volsvc.api.middleware import RequestMiddleware, build_error_handlers
from volsvc.api.policies import Policy
from volsvc.api.routes import PUBLIC_ROWS, ROWS, V2_ROWS
from volsvc.api.table import Row
from volsvc.api.type_names import TypeNames
from volsvc.options import Options

if TYPE_CHECKING:
    from volsvc.volume_api import VolumeAPI

Application: TypeAlias = "falcon.App[falcon.Request, falcon.Response]"

LOG = logging.getLogger(__name__)


def build_app(
    volume_api: VolumeAPI,
    settings: Options,
    *,
    policy: Policy | None = None,
    authenticator: Authenticator | None = None,
) -> Application:
    """The API as a WSGI application; thread-safe, and may be built as often as wanted.

    ``settings``: a snapshot of ``conf.api.OPTS``.  ``policy``: without one the built-in rules
    apply.  ``authenticator``: another one than ``auth_strategy`` names.  Raises ``ConfigurationError``.
    """
    parts = Parts(api=volume_api, policy=policy or Policy(), settings=settings, type_names=TypeNames(volume_api))
    collections = frozenset(row.path.split("/")[1] for row in ROWS)
    app = falcon.App(
        middleware=[
            RequestMiddleware(
                parts,
                authenticator or build_authenticator(settings),
                collections=collections,
                public=frozenset(row.path for row in PUBLIC_ROWS),
            )
        ]
    )
    app.req_options.strip_url_path_trailing_slash = True
    app.req_options.auto_parse_form_urlencoded = False
    for error_class, handler in build_error_handlers(LOG):
        app.add_error_handler(error_class, handler)
    limit: int = settings.osapi_max_request_body_size
    for path, rows in _by_path(PUBLIC_ROWS).items():
        app.add_route(path, Resource(rows, limit))
    for path, rows in _by_path(ROWS).items():
        app.add_route(f"/v3{path}", Resource(rows, limit))
    for path, rows in _by_path(V2_ROWS).items():
        app.add_route(f"/v2{path}", Resource(rows, limit))
    return app


def _by_path(rows: tuple[Row, ...]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.path].append(row)
    return found
