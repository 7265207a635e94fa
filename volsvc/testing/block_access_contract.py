"""The contract of a volume driver towards backups: giving readers the blocks, and taking them back.

Subclass ``BlockAccessContract`` beside ``VolumeDriverContract``, with the same ``harness`` fixture.  A
driver without a way for a reader on another host says ``AbilityMissing`` and doesn't declare
``remote_blocks``; then only that refusal is tested.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from volsvc import exceptions as exc
from volsvc import models
from volsvc.backup.access import open_sink, open_source
from volsvc.backup.blocks import BlockSource, iterate_data
from volsvc.drivers.readers import LOCAL, Reader, Source
from volsvc.testing import cuts
from volsvc.testing.driver_contract import FAR, MIB, PATTERN, DriverHarness, World

ELSEWHERE = {"host": "elsewhere", "local": False}


def new_reader(mode: str = "ro", *, is_local: bool = True) -> Reader:
    return Reader(str(uuid.uuid4()), mode == "ro", {} if is_local else ELSEWHERE)


def read(source: BlockSource, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    source.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def reads_pattern(source: BlockSource, seed: bytes = PATTERN) -> bool:
    """Whether it holds what ``write_pattern`` writes, and says where there is nothing."""
    extents = list(iterate_data(source))
    covered = sum(extent.length for extent in extents)
    return (
        source.size_bytes == models.GIB
        and read(source, 0, len(seed)) == seed
        and read(source, FAR, len(seed)) == seed[::-1]
        and not any(read(source, 350 * MIB, 65536))
        and all(extent.offset < MIB or FAR <= extent.offset < FAR + MIB for extent in extents)
        and covered < 2 * MIB
    )


class BlockAccessContract:
    """The tests; see the module's docstring."""

    @pytest.fixture
    def world(self, harness: DriverHarness) -> Iterator[World]:
        world = World.start(harness)
        yield world
        for reader_id in world.driver.list_readers():
            world.driver.close_blocks(reader_id)
        with contextlib.suppress(exc.VolsvcError):
            world.clear()
        world.driver.close()

    @pytest.fixture
    def bridges(self) -> Iterator[str]:
        """A directory with a path that is short enough for sockets."""
        path = tempfile.mkdtemp(prefix="vb")
        yield path
        shutil.rmtree(path)

    @pytest.fixture(params=["here", "elsewhere"])
    def is_local(self, request: pytest.FixtureRequest, world: World) -> bool:
        """Each way that the driver has; the other one is refused, see below."""
        is_local: bool = request.param == "here"
        if not is_local and "remote_blocks" not in world.driver.abilities:
            pytest.skip("the driver has no way for a reader of another host, and says so")
        return is_local

    # -- reading and writing ---------------------------------------------------------------------

    @pytest.mark.parametrize("kind", ["volume", "snapshot"])
    def test_reader_sees_the_data_and_where_there_is_none(
        self, world: World, bridges: str, is_local: bool, kind: str
    ) -> None:
        volume = world.create_written()
        source: Source = volume if kind == "volume" else world.snapshot(volume)
        reader = new_reader(is_local=is_local)
        with contextlib.closing(open_source(world.driver.open_blocks(source, reader), bridges)) as blocks:
            assert reads_pattern(blocks)
        world.driver.close_blocks(reader.id)
        assert world.driver.list_readers() == frozenset()

    def test_snapshot_stays_as_it_was_while_its_volume_is_written(
        self, world: World, bridges: str, is_local: bool
    ) -> None:
        volume = world.create_written()
        reader = new_reader(is_local=is_local)
        info = world.driver.open_blocks(world.snapshot(volume), reader)
        with contextlib.closing(open_source(info, bridges)) as blocks, world.client(volume) as client:
            client.write(0, b"later" * 200)
            client.flush()
            assert reads_pattern(blocks)

    def test_what_a_writer_wrote_and_synced_is_what_clients_read(
        self, world: World, bridges: str, is_local: bool
    ) -> None:
        volume = world.create_written(b"before" * 800)
        reader = new_reader("rw", is_local=is_local)
        with contextlib.closing(open_sink(world.driver.open_blocks(volume, reader), bridges)) as sink:
            assert sink.size_bytes == volume.size_bytes
            sink.write_zeroes(0, volume.size_bytes)
            sink.write(0, memoryview(PATTERN))
            sink.write(FAR, memoryview(PATTERN[::-1]))
            sink.sync()
        world.driver.close_blocks(reader.id)
        assert world.holds(volume)

    def test_opening_again_gives_the_same_answer_and_cuts_nobody(
        self, world: World, bridges: str, is_local: bool
    ) -> None:
        snapshot, reader = world.snapshot(world.create_written()), new_reader(is_local=is_local)
        info = world.driver.open_blocks(snapshot, reader)
        with contextlib.closing(open_source(info, bridges)) as blocks:
            assert world.driver.open_blocks(snapshot, reader) == info
            assert reads_pattern(blocks)

    def test_snapshots_are_written_by_nobody(self, world: World, is_local: bool) -> None:
        snapshot = world.snapshot(world.create_written())
        with pytest.raises(exc.InvalidSnapshot):
            world.driver.open_blocks(snapshot, new_reader("rw", is_local=is_local))
        assert world.driver.list_readers() == frozenset()

    def test_what_was_opened_for_reading_is_not_opened_for_writing(
        self, world: World, bridges: str, is_local: bool
    ) -> None:
        info = world.driver.open_blocks(world.create_written(), new_reader(is_local=is_local))
        with pytest.raises(exc.VolumeAccessError):
            open_sink(info, bridges)

    def test_what_is_not_on_the_storage_is_refused(self, world: World, is_local: bool) -> None:
        for source in (world.new_volume(), world.new_snapshot(world.new_volume())):
            with pytest.raises(exc.DriverError):
                world.driver.open_blocks(source, new_reader(is_local=is_local))
        assert world.driver.list_readers() == frozenset()

    def test_nothing_is_opened_while_the_marker_is_missing(self, world: World, is_local: bool) -> None:
        volume = world.create_written()
        with world.harness.swap_storage(), pytest.raises(exc.BackendUnavailable):
            world.driver.open_blocks(volume, new_reader(is_local=is_local))
        assert world.driver.list_readers() == frozenset()

    # -- on this host ------------------------------------------------------------------------------

    def test_path_that_is_another_file_on_the_readers_host_is_told_apart(self, world: World, bridges: str) -> None:
        info = world.driver.open_blocks(world.create_written(), new_reader("rw"))
        if info["driver_volume_type"] != LOCAL:
            pytest.skip("the driver gives no paths")
        for changes in ({"inode": -1}, {"device": -1}, {"device_path": "/nowhere/volume"}):
            elsewhere = {**info, "data": {**info["data"], **changes}}
            for opener in (open_source, open_sink):
                with pytest.raises(exc.NotThisHost):
                    opener(elsewhere, bridges)

    # -- on another host ---------------------------------------------------------------------------

    def test_reader_of_another_host_is_refused_by_name_where_there_is_no_way(self, world: World) -> None:
        if "remote_blocks" in world.driver.abilities:
            pytest.skip("there is one")
        with pytest.raises(exc.AbilityMissing, match=world.driver.context.backend):
            world.driver.open_blocks(world.create_written(), new_reader(is_local=False))
        assert world.driver.list_readers() == frozenset()

    def test_closed_reader_can_neither_go_on_nor_come_back(self, world: World, bridges: str) -> None:
        self._require_remote(world)
        snapshot = world.snapshot(world.create_written())
        closed, kept = new_reader(is_local=False), new_reader(is_local=False)
        infos = [world.driver.open_blocks(snapshot, reader) for reader in (closed, kept)]
        assert world.driver.list_readers() == {closed.id, kept.id}
        with (
            contextlib.closing(self._open_impatiently(infos[0], bridges)) as blocks,
            contextlib.closing(open_source(infos[1], bridges)) as others,
        ):
            for _ in range(2):
                world.driver.close_blocks(closed.id)
            assert world.driver.list_readers() == {kept.id}
            with pytest.raises(exc.VolumeAccessError):
                read(blocks, FAR, 4096)
            assert reads_pattern(others), "closing one harms no other"
        with pytest.raises(exc.VolumeAccessError):
            open_source(infos[0], bridges)

    def test_restarted_driver_knows_its_readers_and_cuts_nobody(self, world: World, bridges: str) -> None:
        self._require_remote(world)
        snapshot, reader = world.snapshot(world.create_written()), new_reader(is_local=False)
        info = world.driver.open_blocks(snapshot, reader)
        with contextlib.closing(open_source(info, bridges)) as blocks:
            world.restart()
            assert world.driver.list_readers() == {reader.id}
            assert world.driver.open_blocks(snapshot, reader) == info
            assert reads_pattern(blocks)
        world.driver.close_blocks(reader.id)
        assert world.driver.list_readers() == frozenset()

    @pytest.mark.parametrize("kind", ["volume", "snapshot"])
    def test_deleting_what_is_read_ends_its_readers_and_no_others(self, world: World, bridges: str, kind: str) -> None:
        self._require_remote(world)
        volume = world.create_written()
        snapshot = world.snapshot(volume)
        of_volume, of_snapshot = new_reader(is_local=False), new_reader(is_local=False)
        world.driver.open_blocks(volume, of_volume)
        world.driver.open_blocks(snapshot, of_snapshot)
        if kind == "volume":
            world.driver.delete_volume(volume)
        else:
            world.driver.delete_snapshot(snapshot)
        assert world.driver.list_readers() == {of_snapshot.id if kind == "volume" else of_volume.id}

    @pytest.mark.slow
    @pytest.mark.parametrize("error", [None, errno.ENOSPC], ids=["killed", "failing"])
    def test_opening_cut_at_each_step_is_completed_by_repeating_it(
        self, world: World, bridges: str, error: int | None
    ) -> None:
        self._require_remote(world)
        snapshot, reader = world.snapshot(world.create_written()), new_reader(is_local=False)
        for cut in world.harness.each_cut(error):
            with contextlib.suppress(cuts.Cut, exc.VolsvcError), cut:
                world.driver.open_blocks(snapshot, reader)
            if error is None:
                world.restart()
            info = world.driver.open_blocks(snapshot, reader)
            with contextlib.closing(open_source(info, bridges)) as blocks:
                assert reads_pattern(blocks)
            world.driver.close_blocks(reader.id)
            assert world.driver.list_readers() == frozenset()

    @pytest.mark.slow
    @pytest.mark.parametrize("error", [None, errno.EIO], ids=["killed", "failing"])
    def test_closing_cut_at_each_step_is_completed_by_repeating_it(
        self, world: World, bridges: str, error: int | None
    ) -> None:
        self._require_remote(world)
        snapshot, reader = world.snapshot(world.create_written()), new_reader(is_local=False)
        for cut in world.harness.each_cut(error):
            info = world.driver.open_blocks(snapshot, reader)
            with contextlib.suppress(cuts.Cut, exc.VolsvcError), cut:
                world.driver.close_blocks(reader.id)
            if error is None:
                world.restart()
            world.driver.close_blocks(reader.id)
            assert world.driver.list_readers() == frozenset()
            with pytest.raises(exc.VolumeAccessError):
                open_source(info, bridges)

    def test_readers_that_are_no_uuids_are_refused(self, world: World) -> None:
        self._require_remote(world)
        volume = world.create()
        with pytest.raises(exc.InvalidInput):
            world.driver.open_blocks(volume, Reader("../escape", True, ELSEWHERE))

    def _require_remote(self, world: World) -> None:
        if "remote_blocks" not in world.driver.abilities:
            pytest.skip("the driver has no way for a reader of another host, and says so")

    def _open_impatiently(self, info: Mapping[str, Any], directory: str) -> BlockSource:
        """A source that doesn't wait for a connection to come back."""
        return open_source(info, directory, reconnect_s=0)
