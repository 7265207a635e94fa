"""Who may do what: Cinder's rule names on oslo.policy, with decisions remembered.

A rule is checked against the caller's own project: for whoever is no admin, ``VolumeAPI``
already hides other projects' things, so that a target of its own would say nothing new.
"""

from __future__ import annotations

import os
import threading
import time

from oslo_config import cfg
from oslo_log import log as logging
from oslo_policy import policy as oslo_policy

from volsvc import exceptions as exc
from volsvc import models

LOG = logging.getLogger(__name__)

ADMIN = "rule:admin_api"
READER = "rule:xena_system_admin_or_project_reader"
MEMBER = "rule:xena_system_admin_or_project_member"

# What rules are made of; an operator's file may use any of these names.
_BASE = (
    ("context_is_admin", "role:admin", "Who counts as an admin."),
    ("admin_api", "is_admin:True", "Default rule for what only admins may do."),
    ("admin_or_owner", "is_admin:True or project_id:%(project_id)s", "Admins, and everyone in their own project."),
    (
        "xena_system_admin_or_project_reader",
        "(role:admin) or (role:reader and project_id:%(project_id)s)",
        "Admins, and readers of the project.",
    ),
    (
        "xena_system_admin_or_project_member",
        "(role:admin) or (role:member and project_id:%(project_id)s)",
        "Admins, and members of the project.",
    ),
)

# Rules with who may by default.  The first group is checked by the table of operations,
# the second while an answer is put together.
RULES: dict[str, str] = {
    "volume:create": MEMBER,
    "volume:get": READER,
    "volume:get_all": READER,
    "volume:update": MEMBER,
    "volume:delete": MEMBER,
    "volume:extend": MEMBER,
    "volume:get_volume_metadata": READER,
    "volume:create_volume_metadata": MEMBER,
    "volume:update_volume_metadata": MEMBER,
    "volume:delete_volume_metadata": MEMBER,
    "volume_extension:volume_admin_actions:force_delete": ADMIN,
    "volume_extension:volume_admin_actions:reset_status": ADMIN,
    "volsvc:volume:inspect": ADMIN,
    "volume:create_snapshot": MEMBER,
    "volume:get_snapshot": READER,
    "volume:get_all_snapshots": READER,
    "volume:update_snapshot": MEMBER,
    "volume:delete_snapshot": MEMBER,
    "volume:get_snapshot_metadata": READER,
    "volume:update_snapshot_metadata": MEMBER,
    "volume:delete_snapshot_metadata": MEMBER,
    "volume_extension:snapshot_admin_actions:force_delete": ADMIN,
    "volume_extension:snapshot_admin_actions:reset_status": ADMIN,
    "backup:get_all": READER,
    "backup:get": READER,
    "backup:create": MEMBER,
    "backup:update": MEMBER,
    "backup:delete": MEMBER,
    "backup:restore": MEMBER,
    "backup:backup-import": ADMIN,
    "backup:export-import": ADMIN,
    "volume_extension:backup_admin_actions:reset_status": ADMIN,
    "volume_extension:backup_admin_actions:force_delete": ADMIN,
    "volume:attachment_create": MEMBER,
    "volume:attachment_update": MEMBER,
    "volume:attachment_delete": MEMBER,
    "volume:attachment_complete": MEMBER,
    "volume_extension:type_create": ADMIN,
    "volume_extension:type_update": ADMIN,
    "volume_extension:type_delete": ADMIN,
    "volume_extension:type_get": READER,
    "volume_extension:type_get_all": READER,
    "volume_extension:types_extra_specs:index": READER,
    "volume_extension:types_extra_specs:show": READER,
    "volume_extension:types_extra_specs:create": ADMIN,
    "volume_extension:types_extra_specs:update": ADMIN,
    "volume_extension:types_extra_specs:delete": ADMIN,
    "volume_extension:volume_type_encryption:get": ADMIN,
    "volume_extension:services:index": ADMIN,
    "volume_extension:services:update": ADMIN,
    "scheduler_extension:scheduler_stats:get_pools": ADMIN,
    "volume_extension:quotas:show": READER,
    "limits_extension:used_limits": READER,
    "volsvc:operation:get": READER,
    "volsvc:operation:get_all": READER,
    "volsvc:operation:cancel": MEMBER,
    "volsvc:anyone": "",
    # -- inside handlers and views
    "volume:force_delete": ADMIN,
    "volsvc:reset:ignore_driver": ADMIN,
    "volsvc:reset:skip_driver": ADMIN,
    "backup:backup_project_attribute": ADMIN,
    "volume_extension:volume_host_attribute": ADMIN,
    "volume_extension:volume_tenant_attribute": READER,
    "volume_extension:volume_mig_status_attribute": ADMIN,
    "volume_extension:extended_snapshot_attributes": READER,
    "volume_extension:access_types_extra_specs": READER,
    "volume_extension:access_types_qos_specs_id": ADMIN,
    "volume_extension:types_extra_specs:read_sensitive": ADMIN,
}

# What the rules of the second group decide; the others are described by where they apply.
_INSIDE = {
    "volume:force_delete": "Deleting a volume with 'force' in the query, whatever its status.",
    "volsvc:reset:ignore_driver": "Resetting a status although the driver fails ('force': 'ignore').",
    "volsvc:reset:skip_driver": "Resetting a status without asking the driver ('force': 'skip').",
    "backup:backup_project_attribute": "Showing which project and which user have a backup.",
    "volume_extension:volume_host_attribute": "Showing which backend has a volume.",
    "volume_extension:volume_tenant_attribute": "Showing which project has a volume.",
    "volume_extension:volume_mig_status_attribute": "Showing a volume's migration status.",
    "volume_extension:extended_snapshot_attributes": "Showing a snapshot's project and progress.",
    "volume_extension:access_types_extra_specs": "Showing extra specs within a volume type.",
    "volume_extension:access_types_qos_specs_id": "Showing qos_specs_id within a volume type.",
    "volume_extension:types_extra_specs:read_sensitive": "Showing extra specs that users don't need to see.",
    "limits_extension:used_limits": "Showing what is used in the answer of /limits.",
}

_SECONDS_BETWEEN_LOOKS = 1.0
_MAX_REMEMBERED = 8192


def list_rules() -> list[oslo_policy.RuleDefault]:
    """Every rule with its default and where it applies, for oslo.policy's own tools."""
    from volsvc.api.routes import ROWS

    places: dict[str, list[oslo_policy.Operation]] = {}
    for row in ROWS:
        if row.rule is not None:
            suffix = f" ({row.action})" if row.action else ""
            places.setdefault(row.rule, []).append(
                oslo_policy.Operation(method=row.method, path=f"/v3{row.path}{suffix}")
            )
    rules: list[oslo_policy.RuleDefault] = [
        oslo_policy.RuleDefault(name, check, description=description) for name, check, description in _BASE
    ]
    for name, check in RULES.items():
        where = places.get(name)
        if where is None:
            rules.append(
                oslo_policy.RuleDefault(name, check, description=_INSIDE.get(name, f"Part of other requests: {name}."))
            )
        else:
            rules.append(
                oslo_policy.DocumentedRuleDefault(name, check, description=f"Needed for: {name}.", operations=where)
            )
    return rules


class Policy:
    """Decisions by rule and caller; the file is looked at once a second and read again when it changed."""

    def __init__(self, policy_file: str | None = None) -> None:
        """``policy_file``: absolute path of a YAML file with other rules; it may be missing.

        Raises ``ConfigurationError`` when it exists and can't be used.
        """
        self._path = policy_file
        self._lock = threading.Lock()
        self._seen = self._stamp()
        self._next_look = time.monotonic() + _SECONDS_BETWEEN_LOOKS
        # Rules and what was decided with them are swapped together, so that none outlives the other.
        self._current: tuple[oslo_policy.Enforcer, dict[tuple[object, ...], bool]] = (self._load(), {})

    def allows(self, rule: str, ctx: models.RequestContext) -> bool:
        self._look_for_changes()
        key = (rule, ctx.user_id, ctx.project_id, ctx.is_admin, ctx.roles)
        enforcer, decisions = self._current
        decision = decisions.get(key)
        if decision is None:
            decision = _decide(enforcer, rule, ctx)
            if len(decisions) >= _MAX_REMEMBERED:
                decisions.clear()
            decisions[key] = decision
        return decision

    def check(self, rule: str, ctx: models.RequestContext) -> None:
        """Raises ``PolicyNotAuthorized`` unless the caller may."""
        if not self.allows(rule, ctx):
            raise exc.PolicyNotAuthorized(action=rule)

    def _look_for_changes(self) -> None:
        if self._path is None or time.monotonic() < self._next_look:
            return
        with self._lock:
            if time.monotonic() < self._next_look:
                return
            self._next_look = time.monotonic() + _SECONDS_BETWEEN_LOOKS
            stamp = self._stamp()
            if stamp == self._seen:
                return
            self._seen = stamp
            try:
                self._current = (self._load(), {})
            except exc.ConfigurationError as error:
                LOG.error("The policy file was not taken, the rules before it stay: %s", error)
                return
            LOG.info("The policy file %s was read again", self._path)

    def _stamp(self) -> tuple[int, int, int] | None:
        if self._path is None:
            return None
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _load(self) -> oslo_policy.Enforcer:
        conf = cfg.ConfigOpts()
        conf(args=[], project="volsvc", default_config_files=[], default_config_dirs=[])
        path = self._path if self._seen is not None else None
        enforcer = oslo_policy.Enforcer(conf, policy_file=path or "/nonexistent/policy.yaml")
        enforcer.suppress_default_change_warnings = True
        enforcer.suppress_deprecation_warnings = True
        enforcer.register_defaults(list_rules())
        try:
            enforcer.load_rules(force_reload=True)
            if path is not None and not enforcer.check_rules():
                raise exc.ConfigurationError(reason=f"{path}: a rule names a rule that does not exist, or itself")
        except (ValueError, OSError, cfg.Error, oslo_policy.InvalidDefinitionError, AttributeError, TypeError) as error:
            raise exc.ConfigurationError(reason=f"{path}: {exc.describe(error)}") from error
        # From here on it answers from memory; when the file is read again is decided above.
        enforcer.use_conf = False
        return enforcer


def _decide(enforcer: oslo_policy.Enforcer, rule: str, ctx: models.RequestContext) -> bool:
    credentials = {
        "user_id": ctx.user_id,
        "project_id": ctx.project_id,
        "roles": list(ctx.roles),
        "is_admin": ctx.is_admin,
    }
    target = {"project_id": ctx.project_id, "user_id": ctx.user_id}
    return bool(enforcer.enforce(rule, target, credentials))
