"""The table of everything the API can do: each module has the rows and handlers of one subject."""

from __future__ import annotations

from volsvc.api.routes import (
    attachments,
    backups,
    catalogue,
    operations,
    resets,
    services,
    snapshots,
    versions,
    volume_types,
    volumes,
)
from volsvc.api.table import Row

# Below /v3, or below /v3/{project_id}.
ROWS: tuple[Row, ...] = (
    *volumes.ROWS,
    *snapshots.ROWS,
    *attachments.ROWS,
    *backups.ROWS,
    *volume_types.ROWS,
    *services.ROWS,
    *catalogue.ROWS,
    *operations.ROWS,
    *resets.ROWS,
)
# Below /v2, or below /v2/{project_id}.
V2_ROWS: tuple[Row, ...] = resets.V2_ROWS
# Whole paths, without authentication.
PUBLIC_ROWS: tuple[Row, ...] = versions.ROWS
