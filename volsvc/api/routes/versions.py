"""Discovery: the documents in which clients read the range of microversions."""

from __future__ import annotations

from typing import Any

from volsvc.api import microversions
from volsvc.api.call import Call
from volsvc.api.table import Row

# When the highest microversion above was defined.
UPDATED = "2023-08-31T00:00:00Z"


def show(call: Call) -> dict[str, Any]:
    return {
        "versions": [
            {
                "id": "v3.0",
                "status": "CURRENT",
                "version": microversions.text(microversions.MAX),
                "min_version": microversions.text(microversions.MIN),
                "updated": UPDATED,
                "links": [
                    {"rel": "describedby", "type": "text/html", "href": "https://docs.openstack.org/"},
                    {"rel": "self", "href": f"{call.base_url}/v3/"},
                ],
                "media-types": [
                    {"base": "application/json", "type": "application/vnd.openstack.volume+json;version=3"}
                ],
            }
        ]
    }


ROWS = (
    Row("GET", "/", show, rule=None, success=300),
    Row("GET", "/v3", show, rule=None),
)
