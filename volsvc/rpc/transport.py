"""Building and closing transports of oslo.messaging, whichever driver the URL names."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from oslo_config import cfg

from volsvc import exceptions as exc
from volsvc.rpc.library import messaging

#: The only module whose exceptions are re-created from what comes over the wire.
ALLOWED_REMOTE_MODULES = (exc.__name__,)

# oslo.messaging registers these groups on oslo.config's global object only, and then reads
# them from the one it was given: (module, the attribute that lists the options, the group).
_UNREGISTERED_GROUPS = (
    ("oslo_messaging._metrics.client", "oslo_messaging_metrics", "oslo_messaging_metrics"),
    ("oslo_messaging._tracing.client", "oslo_messaging_tracing", "oslo_messaging_tracing"),
)


def load_messaging_options(config_files: Sequence[str] = (), config_dirs: Sequence[str] = ()) -> cfg.ConfigOpts:
    """A ``ConfigOpts`` of its own with the values of these files, for oslo.messaging to register its options on.

    The service's own object won't do: both declare ``transport_url``.  Raises
    ``ConfigurationError`` when a file can't be read.
    """
    conf = cfg.ConfigOpts()
    args = [f"--config-file={path}" for path in config_files] + [f"--config-dir={path}" for path in config_dirs]
    try:
        conf(args=args, project="volsvc", default_config_files=[], default_config_dirs=[])
    except (cfg.Error, OSError) as error:
        raise exc.ConfigurationError(reason=f"{', '.join([*config_files, *config_dirs])}: {error}") from error
    return conf


def build_transport(conf: cfg.ConfigOpts, url: str) -> Any:
    """An RPC transport for this URL; oslo.messaging's options are registered on ``conf``.

    Connects to nothing yet.  Raises ``ConfigurationError`` for a URL or an option that can't be used.
    """
    prepare_options(conf)
    try:
        return messaging.get_rpc_transport(conf, url=url, allowed_remote_exmods=list(ALLOWED_REMOTE_MODULES))
    except (messaging.InvalidTransportURL, messaging.DriverLoadFailure, cfg.Error, ValueError) as error:
        raise exc.ConfigurationError(reason=f"transport_url can't be used: {exc.describe(error)}") from error


def close_transport(transport: Any) -> None:
    """Close its connections.  Stop the servers on it first.  May be repeated."""
    transport.cleanup()


def prepare_options(conf: cfg.ConfigOpts) -> None:
    """Register what oslo.messaging would not find on a ``ConfigOpts`` of our own.  May be repeated."""
    for module_name, attribute, group in _UNREGISTERED_GROUPS:
        try:
            options = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError):
            continue  # a release that doesn't have the group
        conf.register_opts(options, group=group)
