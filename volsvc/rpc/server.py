"""oslo.messaging's RPC server, on threads that can be told apart and end when they should."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from volsvc.rpc.library import rpc_server


class RpcServer(rpc_server.RPCServer):  # type: ignore[misc]
    """For ``get_rpc_server(..., server_cls=RpcServer)``; runs on the standard library's thread pool.

    The threads of oslo.messaging's own have no names, look for work every second though there
    is none, and take as long to notice that they are to stop.
    """

    def __init__(self, transport: Any, target: Any, dispatcher: Any, executor: Any = None) -> None:
        super().__init__(transport, target, dispatcher)
        self._executor_cls = functools.partial(ThreadPoolExecutor, thread_name_prefix=f"rpc {target.server}")
