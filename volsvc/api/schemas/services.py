"""Bodies about services."""

from __future__ import annotations

from volsvc.api import microversions as mv
from volsvc.api.schemas import types as t

_WHICH = {"binary": t.TEXT, "host": t.HOST, "cluster": t.NULLABLE_TEXT, "service": t.TEXT}

ENABLE_OR_DISABLE = ((mv.MIN, t.fields(_WHICH, **t.any_of("binary", "service"))),)
DISABLE_WITH_REASON = ((mv.MIN, t.fields({**_WHICH, "disabled_reason": t.TEXT}, **t.any_of("binary", "service"))),)
