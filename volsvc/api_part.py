"""The HTTP server with the REST API, and how a reload changes it while it serves."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from volsvc.api.app import Application, build_app
from volsvc.api.policies import Policy
from volsvc.api.server import ApiServer, build_server
from volsvc.forgotten_work import ForgottenWork
from volsvc.foundations import Foundations
from volsvc.reloader import Change, ReloadReport, Tick
from volsvc.settings import Settings
from volsvc.volume_api import ApiSettings, VolumeAPI

LOG = logging.getLogger(__name__)

#: Options of [DEFAULT] that requests are answered by, beside the API's own.
REQUEST_OPTIONS = ("rpc_response_timeout", "operation_queue_timeout", "storage_availability_zone")
#: The API's options that need another listening socket.
ADDRESS_OPTIONS = frozenset(
    {
        "osapi_volume_listen",
        "osapi_volume_listen_port",
        "osapi_volume_listen_unix",
    }
)


class ApiPart:
    """Serves the API; every request ends on the application that it began on."""

    name = "api"

    def __init__(self, foundations: Foundations) -> None:
        self._foundations = foundations
        self._forgotten = ForgottenWork(
            foundations.store,
            interval_s=lambda: foundations.settings.service.report_interval,
            down_time_s=lambda: foundations.settings.service.service_down_time,
        )
        self.server = build_server(self._build_app(foundations.settings), foundations.settings.api)

    def _build_app(self, settings: Settings) -> Application:
        service = settings.service
        volume_api = VolumeAPI(
            self._foundations.store,
            self._foundations.doorbell,
            ApiSettings(
                response_timeout_s=service.rpc_response_timeout,
                queue_timeout_s=service.operation_queue_timeout,
                availability_zone=service.storage_availability_zone,
                max_waiting=max(1, settings.api.api_threads // 4),
                max_attaching=max(1, settings.api.api_threads * 5 // 8),
                max_waiting_in_all=max(1, settings.api.api_threads * 7 // 8),
            ),
        )
        return build_app(volume_api, settings.api, policy=Policy(settings.policy_file))

    def start(self) -> None:
        self.server.start()
        self._forgotten.start()
        LOG.info("the REST API listens on %s", self.server.address)

    def stop_accepting(self) -> None:
        return None

    def stop(self, timeout_s: float) -> None:
        self._forgotten.stop()
        self.server.stop(timeout_s)

    def attach(self, process: object) -> None:
        return None

    def look_for_work(self) -> None:
        return None

    def report_config(self, settings: Settings, report: ReloadReport | None) -> None:
        return None  # an API has no service row; its log and the notifications say it

    def prepare(self, new: Settings, tick: Tick) -> Sequence[Change]:
        """Another application when anything of it changed; another socket, bound, when the address did."""
        current = self._foundations.settings
        own = current.api.changed_names(new.api)
        names = own + [name for name in REQUEST_OPTIONS if current.service[name] != new.service[name]]
        options = [f"[DEFAULT] {name}" for name in names]
        if current.policy_file != new.policy_file:
            options.append("[oslo_policy] policy_file")
        if not options:
            return []
        app = self._build_app(new)
        if ADDRESS_OPTIONS & set(own):
            server = build_server(app, new.api)
            server.start()
            return [_AddressChange(self, server, options)]
        return [_AppChange(self.server, app, new, options)]


class _AppChange:
    part = "api"
    is_slow = False

    def __init__(self, server: ApiServer, app: Application, new: Settings, options: Sequence[str]) -> None:
        self.options = options
        self._server = server
        self._app = app
        self._api = new.api

    def apply(self) -> None:
        self._server.reload(
            self._app,
            threads=self._api.api_threads,
            client_timeout_s=self._api.api_request_timeout,
            unix_mode=int(self._api.osapi_volume_listen_unix_mode, 8),
        )

    def discard(self) -> None:
        return None

    def drain(self, timeout_s: float) -> None:
        return None


class _AddressChange:
    part = "api (another address)"
    is_slow = True

    def __init__(self, owner: ApiPart, server: ApiServer, options: Sequence[str]) -> None:
        self.options = options
        self._owner = owner
        self._new = server
        self._old = owner.server

    def apply(self) -> None:
        self._owner.server = self._new
        LOG.info("the REST API listens on %s, no longer on %s", self._new.address, self._old.address)

    def discard(self) -> None:
        self._new.stop(1.0)

    def drain(self, timeout_s: float) -> None:
        self._old.stop(min(timeout_s, 60.0))
