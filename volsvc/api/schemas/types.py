"""Building blocks of the schemas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

MAX_INT = 2**31 - 1

# No control characters in what is shown in one line; line breaks and tabs in descriptions.
_LINE = r"^[^\x00-\x1f\x7f]*$"
_LINES = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$"
_UUID = r"^[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}$"

NAME: Schema = {"type": ["string", "null"], "maxLength": 255, "pattern": _LINE}
REQUIRED_NAME: Schema = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": _LINE}
DESCRIPTION: Schema = {"type": ["string", "null"], "maxLength": 255, "pattern": _LINES}
TEXT: Schema = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": _LINE}
NULLABLE_TEXT: Schema = {"type": ["string", "null"], "maxLength": 255, "pattern": _LINE}

UUID: Schema = {"type": "string", "pattern": _UUID}
NULLABLE_UUID: Schema = {"type": ["string", "null"], "pattern": _UUID}

BOOLEAN: Schema = {
    "enum": [
        *(True, "True", "TRUE", "true", "1", "ON", "On", "on", "YES", "Yes", "yes", "y", "t"),
        *(False, "False", "FALSE", "false", "0", "OFF", "Off", "off", "NO", "No", "no", "n", "f"),
    ]
}
NULLABLE_BOOLEAN: Schema = {"enum": [*BOOLEAN["enum"], None]}

# A number, or its digits as text; "0" as text is refused as 0 is.
SIZE_GB: Schema = {
    "type": ["integer", "string"],
    "minimum": 1,
    "maximum": MAX_INT,
    "pattern": "^0{0,9}[1-9][0-9]{0,8}$",
}
NULLABLE_SIZE_GB: Schema = {**SIZE_GB, "type": ["integer", "string", "null"]}

HOST: Schema = {
    "type": ["string", "null"],
    "minLength": 1,
    "maxLength": 255,
    "pattern": r"^[a-zA-Z0-9\-._#@:/+\[\]]*$",
}

_METADATA_KEY = r"^[a-zA-Z0-9\-_:. /]{1,255}$"
_SPEC_KEY = r"^[a-zA-Z0-9\-_:.]{1,255}$"
_VALUE: Schema = {"type": "string", "maxLength": 255}

METADATA: Schema = {"type": "object", "patternProperties": {_METADATA_KEY: _VALUE}, "additionalProperties": False}
NULLABLE_METADATA: Schema = {**METADATA, "type": ["object", "null"]}
ONE_METADATA_ITEM: Schema = {**METADATA, "minProperties": 1, "maxProperties": 1}

EXTRA_SPECS: Schema = {
    "type": "object",
    "patternProperties": {_SPEC_KEY: {"type": ["string", "null"], "maxLength": 255}},
    "additionalProperties": False,
}
ONE_EXTRA_SPEC: Schema = {**EXTRA_SPECS, "minProperties": 1, "maxProperties": 1}
EXTRA_SPECS_OF_NEW_TYPE: Schema = {
    "type": ["object", "null"],
    "patternProperties": {_METADATA_KEY: {"type": ["string", "null"], "maxLength": 255}},
    "additionalProperties": False,
}


def wrapped(name: str, inner: Schema, **others: Schema) -> Schema:
    """``{"name": inner}`` and nothing else, but for optional ``others``."""
    return {
        "type": "object",
        "properties": {name: inner, **others},
        "required": [name],
        "additionalProperties": False,
    }


def fields(properties: Mapping[str, Schema], *, required: tuple[str, ...] = (), **more: Any) -> Schema:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
        **more,
    }


def any_of(*names: str) -> dict[str, Any]:
    """At least one of these fields must be there."""
    return {"anyOf": [{"required": [name]} for name in names]}


def action_without_arguments(name: str) -> Schema:
    """An action whose value says nothing; Cinder takes any."""
    return wrapped(name, {})
