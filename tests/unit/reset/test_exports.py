"""Restoring exports, by an initialisation or after a reload, beside what changes them at that moment."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests.unit.reset.bench import ADMIN, CONNECTOR, Backend
from volsvc import models, volume_init
from volsvc.testing.daemon import wait_until


def run(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def begin_attach(backend: Backend, volume: models.Volume) -> threading.Thread:
    """An attach whose export is there, and whose record isn't yet."""
    before = backend.exports(volume)
    backend.script.set("initialize_connection", hang=True, when="after")
    thread = run(lambda: backend.api.create_attachment(ADMIN, volume.id, connector=CONNECTOR))
    wait_until(lambda: backend.exports(volume) > before, "the export")
    return thread


def end(backend: Backend, *threads: threading.Thread) -> None:
    backend.script.clear()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.parametrize("is_first", [True, False], ids=["the first attachment", "another attachment"])
def test_an_export_that_an_attach_makes_meanwhile_is_kept(backend: Backend, is_first: bool) -> None:
    volume = backend.create(multiattach=True)
    if not is_first:
        backend.attach(volume)
    attaching = begin_attach(backend, volume)
    restoring = run(backend.manager.after_swap)
    restoring.join(0.2)
    assert restoring.is_alive(), "the volume is held"
    end(backend, attaching, restoring)
    assert backend.exports(volume) == {attachment.id for attachment in backend.attachments(volume)}
    assert len(backend.exports(volume)) == (1 if is_first else 2)


def test_a_volume_that_is_held_too_long_does_not_keep_the_others(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume_init, "HOLD_TIMEOUT_S", 0.1)
    volumes = [backend.create() for _ in range(4)]
    attachment, _ = backend.attach(volumes[2])
    attaching = [begin_attach(backend, volumes[i]) for i in (0, 1, 3)]
    backend.driver.target.kill_exporter(volumes[2].id)
    backend.manager.after_swap()
    assert backend.exports(volumes[2]) == {attachment.id}
    end(backend, *attaching)
    for held in volumes:
        assert backend.exports(held) == {a.id for a in backend.attachments(held)} != set()


def test_what_waits_for_a_volume_goes_on_when_its_exports_are_restored(backend: Backend) -> None:
    volume = backend.create()
    backend.attach(volume)
    backend.script.set("ensure_export", hang=True)
    restoring = run(backend.manager.after_swap)
    wait_until(lambda: backend.script.calls("ensure_export"), "the exports to be restored")
    backend.api.extend(ADMIN, volume.id, 2)
    assert backend.row(volume).size_gb == 1
    end(backend, restoring)
    wait_until(lambda: backend.row(volume).size_gb == 2, "the extend")


def test_what_an_attach_that_was_cut_left_exported_is_ended(backend: Backend) -> None:
    volume = backend.create(multiattach=True)
    kept, client = backend.attach(volume)
    cut = backend.api.create_attachment(ADMIN, volume.id)
    alone = backend.create()
    cut_alone = backend.api.create_attachment(ADMIN, alone.id)
    for attached, attachment in ((volume, cut), (alone, cut_alone)):
        backend.driver.initialize_connection(attached, attachment)
    backend.manager.after_swap()
    assert backend.exports(volume) == {kept.id}
    assert backend.exports(alone) == set()
    client.write(0, b"goes on")
