from __future__ import annotations

import pathlib

import pytest
from oslo_config import cfg

from volsvc import exceptions as exc
from volsvc import settings
from volsvc.driver_loader import load_driver
from volsvc.drivers.file import FileDriver
from volsvc.targets.nbd import NbdTarget


@pytest.fixture
def load(tmp_path: pathlib.Path):
    def load_text(text: str | bytes) -> settings.Settings:
        path = tmp_path / "cinder.conf"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return settings.load([str(path)])

    return load_text


def test_an_empty_file_gives_the_embedded_default(load) -> None:
    loaded = load("")
    assert [backend.name for backend in loaded.backends] == ["file"]
    assert loaded.database.connection == f"sqlite:///{loaded.service.state_path}/volsvc.sqlite"
    assert loaded.service.transport_url.startswith("unix:///")


def test_values_are_converted_and_frozen(load) -> None:
    loaded = load("[DEFAULT]\nstate_path=/x\nreinit_driver_count = 0\nenabled_backends = a, b\n[a]\n[b]\n")
    assert loaded.service.reinit_driver_count == 0
    assert loaded.service.runtime_path == "/x/run"
    assert loaded.service.enabled_backends == ("a", "b")
    with pytest.raises(AttributeError, match="frozen"):
        loaded.service.host = "other"


def test_a_backend_takes_from_its_group_then_backend_defaults_then_the_default(load) -> None:
    loaded = load(
        "[DEFAULT]\nenabled_backends=a,b\n[backend_defaults]\nvolume_backend_name=shared\nreserved_percentage=7\n"
        "[a]\nvolume_backend_name=mine\n[b]\n"
    )
    assert loaded.backend("a").options.volume_backend_name == "mine"
    assert loaded.backend("b").options.volume_backend_name == "shared"
    declared = FileDriver.declared_options()
    assert loaded.backend("a").freeze(declared).reserved_percentage == 7


def test_a_backends_values_may_refer_to_the_services(load) -> None:
    loaded = load(
        "[DEFAULT]\nenabled_backends=a\nstate_path=/x\nmy_ip=192.0.2.7\n"
        "[a]\nfile_store_path=$state_path/disks\nnbd_socket_directory=$runtime_path/nbd\n"
    )
    backend = loaded.backend("a")
    assert backend.freeze(FileDriver.declared_options()).file_store_path == "/x/disks"
    target = backend.freeze(NbdTarget.declared_options())
    assert (target.nbd_socket_directory, target.target_ip_address) == ("/x/run/nbd", "192.0.2.7")


def test_a_backup_driver_may_refer_to_the_state_path_where_that_is_the_default(load) -> None:
    loaded = load("")
    option = cfg.StrOpt("place", default="$state_path/place")
    assert loaded.backup.freeze([option]).place == f"{loaded.service.state_path}/place"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[DEFAULT\nx=1", ["cinder.conf", "Invalid section"]),
        ("[DEFAULT]\nreinit_driver_count = many\n", ["cinder.conf", "reinit_driver_count", "many"]),
        ("[DEFAULT]\nreinit_driver_count = -1\n", ["reinit_driver_count", "-1"]),
        ("[DEFAULT]\nenabled_backends = nosuch\n", ["cinder.conf", "nosuch", "no group"]),
        ("[DEFAULT]\nenabled_backends =\n", ["enabled_backends is empty"]),
        ("[DEFAULT]\nenabled_backends = file,file\n", ["twice"]),
        ("[DEFAULT]\nservice_down_time = 5\n", ["service_down_time", "report_interval"]),
        (b"\x00\xff\xfe\x80 binary", ["cinder.conf"]),
    ],
)
def test_a_bad_file_is_one_line_with_file_option_and_value(load, text, words) -> None:
    with pytest.raises(exc.ConfigurationError) as raised:
        load(text)
    message = str(raised.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_bad_value_in_a_backend_names_group_and_option(load) -> None:
    loaded = load("[DEFAULT]\nenabled_backends=a\n[a]\nreserved_percentage = lots\n")
    with pytest.raises(exc.DriverConfigurationError, match=r"cinder\.conf: \[a\] reserved_percentage = lots"):
        loaded.backend("a").freeze(FileDriver.declared_options())


def test_a_missing_file_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(exc.ConfigurationError, match=r"gone\.conf does not exist"):
        settings.load([str(tmp_path / "gone.conf")])


def test_a_slip_in_a_name_is_warned_about_and_cinders_other_options_are_not(load) -> None:
    loaded = load("[DEFAULT]\nreinit_drivers_count = 5\nglance_api_servers = x\n")
    assert len(loaded.warnings) == 1
    assert "did you mean reinit_driver_count" in loaded.warnings[0]


def test_a_slip_in_a_backends_group_is_warned_about_where_its_options_are_known(load) -> None:
    groups = "[DEFAULT]\nenabled_backends = a, b\n[a]\nfile_store_paht = /x\nrbd_pool = y\n"
    [warning] = load(f"{groups}[b]\nvolume_driver = some.Driver\nfile_store_paths = /y\n").warnings
    assert "[a] file_store_paht is not an option; did you mean file_store_path?" in warning
    [warning] = load("[backend_defaults]\nreserved_percentag = 5\n").warnings
    assert "[backend_defaults] reserved_percentag" in warning


def test_the_digest_follows_the_contents(load) -> None:
    assert load("").digest != load("[DEFAULT]\n").digest
    assert load("").digest == load("").digest


def test_two_drivers_may_declare_one_option_differently(load) -> None:
    loaded = load("[DEFAULT]\nenabled_backends=a,b\n[backend_defaults]\nlevel=3\n[a]\n[b]\n")
    assert loaded.backend("a").freeze([cfg.IntOpt("level", help="one")]).level == 3
    assert loaded.backend("b").freeze([cfg.StrOpt("level", help="another")]).level == "3"


def test_a_later_file_wins(tmp_path: pathlib.Path) -> None:
    first, second = tmp_path / "1.conf", tmp_path / "2.conf"
    first.write_text("[DEFAULT]\nenabled_backends=a\n[backend_defaults]\nvolume_backend_name=x\n[a]\n")
    second.write_text("[a]\nvolume_backend_name=y\n")
    loaded = settings.load([str(first), str(second)])
    assert loaded.backend("a").options.volume_backend_name == "y"


def test_the_policy_file_is_beside_the_configuration_unless_its_path_is_absolute(load, tmp_path: pathlib.Path) -> None:
    assert load("").policy_file == str(tmp_path / "policy.yaml")
    assert load("[oslo_policy]\npolicy_file = rules.yaml\n").policy_file == str(tmp_path / "rules.yaml")
    assert load("[oslo_policy]\npolicy_file = /rules.yaml\n").policy_file == "/rules.yaml"


def test_a_negative_reinit_driver_count_is_refused_with_file_option_and_value(load, tmp_path: pathlib.Path) -> None:
    with pytest.raises(exc.ConfigurationError) as raised:
        load("[DEFAULT]\nreinit_driver_count = -1\n")
    for word in (str(tmp_path / "cinder.conf"), "reinit_driver_count", "-1"):
        assert word in str(raised.value)


def test_a_required_option_of_a_driver_that_is_not_set_is_named(load, tmp_path: pathlib.Path) -> None:
    (backend,) = load("[DEFAULT]\nenabled_backends = a\n[a]\n").backends
    declared = [cfg.IntOpt("acme_port", required=True, help="Port of the array.")]
    with pytest.raises(exc.DriverConfigurationError) as raised:
        backend.freeze(declared)
    for word in (str(tmp_path / "cinder.conf"), "[a] acme_port is required and not set", "Port of the array."):
        assert word in str(raised.value)
    (backend,) = load("[DEFAULT]\nenabled_backends = a\n[backend_defaults]\nacme_port = 3\n[a]\n").backends
    assert backend.freeze(declared).acme_port == 3


def test_a_wrong_value_that_says_which_driver_a_backend_has_does_not_stop_the_others(load) -> None:
    text = "[DEFAULT]\nenabled_backends = a, b\n[a]\nenable_unsupported_driver = perhaps\n[b]\n"
    loaded = load(text)
    with pytest.raises(exc.DriverConfigurationError, match="perhaps"):
        load_driver(loaded.backend("a"), host="h@a", state_path="/x", runtime_path="/x")
    assert load_driver(loaded.backend("b"), host="h@b", state_path="/x", runtime_path="/x").driver_class is FileDriver
