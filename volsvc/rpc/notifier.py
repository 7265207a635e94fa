"""Notifications through oslo.messaging's notifier, which operators' tools already read.

The driver is [oslo_messaging_notifications] driver, as everywhere; without one the
notifications go to the log.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from oslo_config import cfg
from oslo_utils import strutils

from volsvc import exceptions as exc
from volsvc.rpc.library import messaging
from volsvc.rpc.transport import prepare_options

LOG = logging.getLogger(__name__)

DEFAULT_DRIVERS = ("log",)
GROUP = "oslo_messaging_notifications"
_DRIVERS_ENTRY_POINTS = "oslo.messaging.notify.drivers"


class OsloNotifier:
    """Sends each notification at most once, without waiting for a broker to come back.  Thread-safe.

    Its drivers are fixed when it is built; a reload builds another and closes this one.
    """

    def __init__(self, conf: cfg.ConfigOpts, url: str, *, publisher_id: str) -> None:
        """``url``: the RPC's transport, unless [oslo_messaging_notifications] transport_url names
        another; only drivers that send messages use it.  ``publisher_id``: who sends, e.g.
        ``volume.host@backend``.

        Raises ``ConfigurationError`` for a URL or a driver that doesn't exist.
        """
        prepare_options(conf)
        try:
            self._transport = messaging.get_notification_transport(conf, url=url)
            own_url = conf[GROUP].transport_url  # the line above registered it
            if own_url:
                self._transport.cleanup()
                self._transport = messaging.get_notification_transport(conf, url=own_url)
            drivers = list(conf[GROUP].driver) or list(DEFAULT_DRIVERS)
            # A broker that is down must not hold up an operation, so "retry for ever", the default, means not at all.
            retry = max(conf[GROUP].retry, 0)
        except (messaging.InvalidTransportURL, messaging.DriverLoadFailure) as error:
            raise exc.ConfigurationError(reason=f"[{GROUP}] transport_url can't be used: {error}") from error
        except (cfg.Error, ValueError) as error:
            raise exc.ConfigurationError(reason=f"[{GROUP}]: {exc.describe(error)}") from error
        _refuse_unknown(drivers)
        self._notifiers = [
            messaging.Notifier(self._transport, publisher_id=publisher_id, driver=driver, retry=retry)
            for driver in drivers
        ]

    def info(self, event_type: str, payload: Mapping[str, Any]) -> None:
        """Tell that something happened.  Never raises."""
        self._send("info", event_type, payload)

    def error(self, event_type: str, payload: Mapping[str, Any]) -> None:
        """Tell that something failed.  Never raises."""
        self._send("error", event_type, payload)

    def close(self) -> None:
        """Close its connections.  May be repeated."""
        self._transport.cleanup()

    def _send(self, priority: str, event_type: str, payload: Mapping[str, Any]) -> None:
        try:
            masked = strutils.mask_dict_password(payload)
            for notifier in self._notifiers:
                getattr(notifier, priority)({}, event_type, masked)
        except Exception:
            LOG.exception("the notification %s could not be sent", event_type)


def _refuse_unknown(drivers: Sequence[str]) -> None:
    known = {entry.name for entry in importlib.metadata.entry_points(group=_DRIVERS_ENTRY_POINTS)}
    for driver in drivers:
        if driver not in known:
            raise exc.ConfigurationError(
                reason=f"[{GROUP}] driver = {driver}: there is no such driver; known are: {', '.join(sorted(known))}"
            )
