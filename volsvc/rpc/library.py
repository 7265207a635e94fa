"""The one door through which this package imports oslo_messaging.

oslo_messaging imports oslo.service, which settles for eventlet unless native threads were
chosen before; that choice can't be changed afterwards.  So it is made here, first.  eventlet
itself is kept out while these libraries load: they try to import it only to ask whether it
is in use, which costs more than all the rest of them.
"""

from __future__ import annotations

import sys

_KEPT_OUT = "eventlet"

_is_kept_out = _KEPT_OUT not in sys.modules
if _is_kept_out:
    sys.modules[_KEPT_OUT] = None  # type: ignore[assignment]
try:
    from oslo_service import backend as _service_backend

    _service_backend.init_backend(_service_backend.BackendType.THREADING)

    import oslo_messaging as messaging
    from oslo_messaging._drivers import base as driver_base
    from oslo_messaging._drivers import common as driver_common
    from oslo_messaging.rpc import server as rpc_server
finally:
    if _is_kept_out:
        del sys.modules[_KEPT_OUT]

__all__ = ["driver_base", "driver_common", "messaging", "rpc_server"]
