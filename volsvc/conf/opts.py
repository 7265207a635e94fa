"""What oslo-config-generator lists: every option of every part, for the sample file and the docs."""

from __future__ import annotations

from collections.abc import Sequence

from oslo_config import cfg

from volsvc.conf import backend, database, service


def list_opts() -> list[tuple[str, Sequence[cfg.Opt]]]:
    """(group, options) pairs.  A backend's options stand under [backend_defaults]."""
    from volsvc.backup.drivers.posix import PosixBackupDriver
    from volsvc.backup.drivers.s3 import S3BackupDriver
    from volsvc.conf import api, backup, messaging
    from volsvc.drivers.file import FileDriver
    from volsvc.targets.nbd import NbdTarget

    return [
        (
            "DEFAULT",
            [
                *service.OPTS,
                *api.OPTS,
                *backup.OPTS,
                *PosixBackupDriver.declared_options(),
                *S3BackupDriver.declared_options(),
            ],
        ),
        (database.GROUP, database.OPTS),
        (messaging.GROUP, messaging.OPTS),
        (api.POLICY_GROUP, api.POLICY_OPTS),
        (backend.DEFAULTS_GROUP, [*backend.OPTS, *FileDriver.declared_options(), *NbdTarget.declared_options()]),
    ]
