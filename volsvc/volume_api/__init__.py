"""What a request means: rules, placement, the intent to record, the wait for its end.

``VolumeAPI`` is built from a store and a doorbell and knows neither HTTP nor RPC.
"""

from volsvc.volume_api.attachments import AttachmentRequests
from volsvc.volume_api.backups import BackupRequests
from volsvc.volume_api.base import ApiSettings
from volsvc.volume_api.catalog import CatalogRequests
from volsvc.volume_api.resets import ResetRequests
from volsvc.volume_api.restores import RestoreRequests
from volsvc.volume_api.snapshots import SnapshotRequests
from volsvc.volume_api.volumes import VolumeRequests


class VolumeAPI(
    VolumeRequests,
    SnapshotRequests,
    AttachmentRequests,
    BackupRequests,
    RestoreRequests,
    ResetRequests,
    CatalogRequests,
):
    """Every request on volumes, snapshots, attachments, backups, types, services and operations."""


__all__ = ["ApiSettings", "VolumeAPI"]
