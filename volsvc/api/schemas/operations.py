"""Bodies about operations."""

from __future__ import annotations

from volsvc.api import microversions as mv
from volsvc.api.schemas import types as t

CANCEL = ((mv.MIN, t.wrapped("os-cancel", t.fields({}))),)
