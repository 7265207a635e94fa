"""The contract of a store: subclass ``StoreContract`` in a test module, give it the fixtures, run pytest.

``open_store``: a callable that opens another store on the same, initially empty database that has
the schema; it takes ``service_down_time_s`` and can be pickled, because one test opens it in other
processes.  ``store``: one of those, by default.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from volsvc.ports import Store
from volsvc.testing.stores.attachments import AttachmentContract
from volsvc.testing.stores.backups import BackupContract
from volsvc.testing.stores.gate import EndingContract, RecordingContract
from volsvc.testing.stores.lists import ListContract, ServiceContract, VolumeTypeContract
from volsvc.testing.stores.queue import ClaimContract, TakeBackContract
from volsvc.testing.stores.races import RaceContract
from volsvc.testing.stores.resets import CorrectionContract, QueueOfResetsContract


class StoreContract(
    RecordingContract,
    EndingContract,
    AttachmentContract,
    ClaimContract,
    TakeBackContract,
    QueueOfResetsContract,
    CorrectionContract,
    BackupContract,
    ListContract,
    VolumeTypeContract,
    ServiceContract,
    RaceContract,
):
    """Everything that a store must do."""

    @pytest.fixture
    def store(self, open_store: Callable[..., Store]) -> Store:
        return open_store()
