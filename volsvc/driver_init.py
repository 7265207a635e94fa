"""The steps that bring a driver up, and what they build, for managers of every kind of driver.

One attempt to initialise runs them all on one ``Candidate``; a reload runs those up to the
swap beside a driver that serves, and the rest after it.
"""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, TypeVar

from volsvc import exceptions as exc
from volsvc import models
from volsvc.driver_libraries import missing_library
from volsvc.init_attempt import Step
from volsvc.ports import Store


class ManagedDriver(Protocol):
    """What a manager asks of any driver."""

    @property
    def exclusive(self) -> bool: ...

    def do_setup(self) -> None: ...
    def read_identity(self) -> str | None: ...
    def write_identity(self, identity: str) -> None: ...
    def remove_leftovers(self) -> Sequence[str]: ...
    def close(self) -> None: ...


DriverT = TypeVar("DriverT", bound=ManagedDriver)
DriverT_co = TypeVar("DriverT_co", bound=ManagedDriver, covariant=True)
StatsT = TypeVar("StatsT")


class Blueprint(Protocol[DriverT_co]):
    """What a driver is built from; equal blueprints build equal drivers (``driver_loader``)."""

    def build(self) -> DriverT_co: ...


@dataclass
class Candidate(Generic[DriverT, StatsT]):
    """What an attempt builds up before it is put in service."""

    blueprint: Blueprint[DriverT] | None = None
    driver: DriverT | None = None
    identity: str | None = None
    stats: StatsT | None = None

    def require_driver(self) -> DriverT:
        if self.driver is None:
            raise exc.DriverError(reason="the driver was not built")
        return self.driver

    def close(self) -> None:
        if self.driver is not None:
            self.driver.close()


@dataclass(frozen=True, slots=True)
class StorageWords:
    """How messages call what a driver works on, whose it is, and what it holds."""

    storage: str
    owner: str
    contents: str


class DriverInit(Generic[DriverT, StatsT]):
    """The steps of the driver of ``host`` and ``binary``.

    ``load`` finds the blueprint; ``resume`` is done once for each start.
    """

    words: ClassVar[StorageWords]

    def __init__(
        self,
        *,
        host: str,
        binary: str,
        store: Store,
        load: Callable[[], Blueprint[DriverT]],
        resume: Callable[[DriverT], None],
    ) -> None:
        self.host = host
        self.load_blueprint = load
        self._binary = binary
        self._store = store
        self._resume = resume

    def all_steps(self) -> list[Step[Candidate[DriverT, StatsT]]]:
        return [
            *self._first_steps(),
            Step("identity", self._check_identity),
            *self._steps(self.checks_of_contents()),
            *self._steps(self.restoring()),
            Step("resume", lambda c: self._resume(c.require_driver())),
            Step("publish", self._read_stats),
        ]

    def preparation(self) -> list[Step[Candidate[DriverT, StatsT]]]:
        """For a reload: what may be done beside the driver that serves, and shows that this one would.

        A service without records may be given another storage in this way, a new one too.
        """

        def check_identity(candidate: Candidate[DriverT, StatsT]) -> None:
            self._check_identity(candidate, may_be_new=not self.has_records())

        return [
            *self._first_steps(),
            Step("identity", check_identity),
            *self._steps(self.checks_of_contents()),
            Step("publish", self._read_stats),
        ]

    # -- what each kind of driver has of its own ------------------------------------------

    def checks(self) -> Sequence[tuple[str, Callable[[DriverT], None]]]:
        """Named calls after ``do_setup`` that show whether the driver can serve."""
        raise NotImplementedError

    def checks_of_contents(self) -> Sequence[tuple[str, Callable[[DriverT], None]]]:
        """Named calls that show the same, once the storage is known to be right."""
        return ()

    def restoring(self) -> Sequence[tuple[str, Callable[[DriverT], None]]]:
        """Named calls after those that bring back what an earlier process had going; a reload leaves them out."""
        return ()

    def look_after(self, driver: DriverT) -> None:
        """What a driver that serves needs now and then."""

    def read_stats(self, driver: DriverT) -> StatsT:
        """What is published of the storage; also asked of a driver that serves, to learn whether it still does."""
        raise NotImplementedError

    def has_records(self) -> bool:
        """Whether any record says that something is on the storage."""
        raise NotImplementedError

    def check_owner(self, found: str, services: Sequence[models.Service]) -> None:
        """Raise when the storage with this marker may not be used here because of another service."""

    # -- the steps ------------------------------------------------------------------------

    def _first_steps(self) -> list[Step[Candidate[DriverT, StatsT]]]:
        return [
            Step("load", _naming_libraries(self._load)),
            *self._steps([("do_setup", lambda driver: driver.do_setup())]),
            *self._steps(self.checks()),
        ]

    @staticmethod
    def _steps(calls: Sequence[tuple[str, Callable[[DriverT], None]]]) -> list[Step[Candidate[DriverT, StatsT]]]:
        def step(name: str, run: Callable[[DriverT], None]) -> Step[Candidate[DriverT, StatsT]]:
            return Step(name, _naming_libraries(lambda candidate: run(candidate.require_driver())))

        return [step(name, run) for name, run in calls]

    def _load(self, candidate: Candidate[DriverT, StatsT]) -> None:
        # A library that was installed since the attempt before must be found by this one.
        importlib.invalidate_caches()
        candidate.blueprint = self.load_blueprint()
        candidate.driver = candidate.blueprint.build()

    def _check_identity(self, candidate: Candidate[DriverT, StatsT], *, may_be_new: bool = False) -> None:
        """The storage must be the one that the database knows, so that no unmounted disk is taken for it."""
        driver = candidate.require_driver()
        services = self._store.list_services()
        known = next((s.backend_uuid for s in services if (s.host, s.binary) == (self.host, self._binary)), None)
        found = driver.read_identity()
        if known is not None and found != known and not may_be_new:
            words = self.words
            what = f"the {words.storage}'s marker is {found}" if found else f"the {words.storage} has no marker"
            hint = f"this is another {words.storage}" if found else "is its file system mounted?"
            raise exc.BackendUnavailable(
                reason=f"{what}, the {words.owner}'s is {known}: {hint} (a {words.owner} without {words.contents} "
                f"takes another {words.storage} after 'volsvc-manage service forget-storage {self.host}')"
            )
        if found is None:
            found = self._mark(driver)
        self.check_owner(found, services)
        candidate.identity = found

    @staticmethod
    def _mark(driver: DriverT) -> str:
        identity = str(uuid.uuid4())
        try:
            driver.write_identity(identity)
        except exc.BackendUnavailable:
            # Another service that came to this new storage at the same time may have been quicker.
            found = driver.read_identity()
            if found is None:
                raise
            return found
        return identity

    def _read_stats(self, candidate: Candidate[DriverT, StatsT]) -> None:
        candidate.stats = self.read_stats(candidate.require_driver())


def _naming_libraries(
    run: Callable[[Candidate[DriverT, StatsT]], None],
) -> Callable[[Candidate[DriverT, StatsT]], None]:
    """A driver that imports a library only when it is set up is told from one that fails for another reason."""

    def step(candidate: Candidate[DriverT, StatsT]) -> None:
        try:
            run(candidate)
        except ImportError as error:
            raise missing_library(error, type(candidate.driver).__name__ if candidate.driver else "driver") from error

    return step
