"""Configuration: which source decides, what values mean, and how mistakes are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from corral import config
from corral.errors import BadConfig, Usage

HOME = "home"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / HOME / ".config" / "corral").mkdir(parents=True)
    return tmp_path


def load(folder: Path, flags: object = None, **environment: str) -> config.Loaded:
    given = flags if isinstance(flags, dict) else {}
    return config.load(given, environment, folder, folder / HOME)


def test_without_any_source_the_defaults_hold(folder: Path) -> None:
    loaded = load(folder)
    assert loaded.settings.endpoints == ("tcp://127.0.0.1:5555",)
    assert loaded.settings.broker.heartbeat == 2.0
    assert set(loaded.origins.values()) == {"default"}


def test_flag_over_environment_over_local_over_home_over_default(folder: Path) -> None:
    home = folder / HOME / ".config/corral/config.toml"
    home.write_text('output = "json"\nproject = "home"\ntimeout = 1\n[worker]\nslots = 2\n')
    local = folder / "corral.yaml"
    local.write_text("output: jsonl\nproject: local\ntimeout: 2s\n")
    loaded = load(folder, {"output": "name"}, CORRAL_OUTPUT="table", CORRAL_PROJECT="environment")
    settings = loaded.settings
    assert (settings.output, settings.project, settings.timeout) == ("name", "environment", 2.0)
    assert settings.worker.slots == 2
    assert {key: loaded.origins[key] for key in ("output", "project", "timeout")} == {
        "output": "flag",
        "project": "CORRAL_PROJECT",
        "timeout": str(local),
    }
    assert loaded.origins["worker.slots"] == str(home)
    assert loaded.origins["key"] == "default"


def test_corral_config_names_the_only_file(folder: Path) -> None:
    (folder / "corral.yaml").write_text("project: local\n")
    (folder / "other.toml").write_text('output = "json"\n')
    settings = load(folder, CORRAL_CONFIG="other.toml").settings
    assert (settings.output, settings.project) == ("json", "")
    with pytest.raises(BadConfig, match="cannot be read"):
        load(folder, CORRAL_CONFIG="none.toml")


def test_the_variables_that_scripts_rely_on(folder: Path) -> None:
    settings = load(
        folder,
        CORRAL_BROKER="tcp://a:1,tcp://b:2",
        CORRAL_KEY="my.key",
        CORRAL_OUTPUT="json",
        CORRAL_BROKER_HEARTBEAT="500ms",
        CORRAL_WORKER_GPUS="GPU-1=24GB,GPU-2=512MB",
        CORRAL_SOMETHING_ELSE="ignored",
    ).settings
    assert settings.endpoints == ("tcp://a:1", "tcp://b:2")
    assert (settings.key, settings.output) == ("my.key", "json")
    assert settings.broker.heartbeat == 0.5
    assert settings.worker.gpus == {"GPU-1": 24.0, "GPU-2": 0.5}


def test_paths_in_a_file_start_from_its_folder(folder: Path) -> None:
    (folder / HOME / ".config/corral/config.yaml").write_text("key: mine.key\n")
    assert load(folder).settings.key == str(folder / HOME / ".config/corral/mine.key")


def test_units_in_files(folder: Path) -> None:
    (folder / "corral.yaml").write_text(
        "broker:\n  retention: 7d\n  max_message: 48MB\n  in_memory_bytes: 1GB\n"
        "  max_task_bytes: 3GB\n"
        "  named: {ib_gateway: 1}\n"
        "worker:\n  memory_gb: 16GB\n  gpus: {GPU-1: 24GB, GPU-2: 8}\n"
    )
    settings = load(folder).settings
    assert settings.broker.retention == 7 * 86400
    assert settings.broker.max_message == 48 << 20
    assert settings.broker.in_memory_bytes == 1 << 30
    assert settings.broker.max_task_bytes == 3 << 30
    assert settings.broker.named == {"ib_gateway": 1}
    assert settings.worker.memory_gb == 16
    assert settings.worker.gpus == {"GPU-1": 24.0, "GPU-2": 8.0}


@pytest.mark.parametrize(
    ("name", "text", "where", "why"),
    [
        ("corral.yaml", "output: json\nprojcet: x\n", r"corral.yaml:2: projcet", "mean project"),
        ("corral.yaml", "broker:\n  heartbeat: often\n", r"corral.yaml:2: broker.heartbeat", "10m"),
        ("corral.yaml", "broker: {heartbeat: [1]}\n", r"corral.yaml:1: broker.heart", "Expected"),
        ("corral.yaml", "output: [\n", r"corral.yaml:2: \(syntax\)", "expected"),
        ("corral.yaml", "- a\n", r"corral.yaml: \(file\)", "mapping"),
        ("corral.yaml", "broker: 5\n", r"corral.yaml:1: broker", "no such setting"),
        ("corral.yaml", "worker: {slots: 0}\n", "worker.slots", "above 0"),
        ("corral.yaml", "worker: {slots: 10001}\n", "worker.slots", "at most 10000"),
        ("corral.yaml", "worker:\n  slots: 1\n  slots: 2\n", "yaml:3: worker.slots", "line 2"),
        ("corral.yaml", "worker: {slots: 2.5}\n", "worker.slots", "int"),
        ("corral.yaml", "worker: {slots: '2.5'}\n", "worker.slots", "no whole number"),
        ("corral.yaml", "worker: {slots: 8GB}\n", "worker.slots", "no whole number"),
        ("corral.yaml", "worker: {cpus: 1h}\n", "worker.cpus", "no number"),
        ("corral.yaml", "broker: {max_message: 1h}\n", "broker.max_message", "no size"),
        ("corral.yaml", "broker: {max_message: 8MB}\n", "broker.max_message", "at least 36MiB"),
        ("corral.yaml", "broker: {gone_after: 8}\n", "broker.gone_after", "longer than unavail"),
        ("corral.yaml", "broker: {heartbeat: -1}\n", "broker.heartbeat", "at least 0"),
        ("corral.yaml", "endpoints: [localhost]\n", "endpoints", "tcp://HOST:PORT"),
        ("corral.yaml", "output: xml\n", "corral.yaml:1: output", "none of table"),
        ("corral.yaml", "output: 2020-13-45\n", r"corral.yaml:1: \(syntax\)", "no timestamp"),
        ("corral.yaml", "output: !!int\n", r"corral.yaml:1: \(syntax\)", "no int"),
        ("corral.toml", "a = " + "[" * 3000, r"corral.toml: \(syntax\)", "too deep"),
        ("corral.toml", "output = \n", r"corral.toml: \(syntax\)", "line 1"),
        (
            "corral.toml",
            "[worker]\nslots = 'x'\n",
            "corral.toml:2: worker.slots",
            "no whole number",
        ),
    ],
)
def test_a_mistake_is_told_with_file_line_and_key(
    folder: Path, name: str, text: str, where: str, why: str
) -> None:
    (folder / name).write_text(text)
    with pytest.raises(BadConfig, match=where) as caught:
        load(folder)
    assert why in caught.value.message
    assert caught.value.exit_status == 2


def test_a_mistake_in_the_environment_names_the_variable(folder: Path) -> None:
    with pytest.raises(BadConfig, match="environment: CORRAL_WORKER_SLOTS"):
        load(folder, CORRAL_WORKER_SLOTS="two")


def test_a_mistake_in_a_flag_names_the_option(folder: Path) -> None:
    with pytest.raises(Usage, match="--drain-deadline: 'soon' is no duration"):
        load(folder, {"worker.drain_deadline": "soon"})


def test_two_files_in_one_place_are_refused(folder: Path) -> None:
    (folder / "corral.yaml").write_text("")
    (folder / "corral.toml").write_text("")
    with pytest.raises(BadConfig, match="keep one"):
        load(folder)


def test_an_empty_file_sets_nothing(folder: Path) -> None:
    (folder / "corral.yaml").write_text("# nothing yet\n")
    assert set(load(folder).origins.values()) == {"default"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("10m", 600), ("1h 30m", 5400), ("1h30m", 5400), ("0.5s", 0.5), ("2w", 1209600)],
)
def test_durations(text: str, seconds: float) -> None:
    assert config.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "10 minutes", "-5", "nan", "inf", "1e9", "1h x"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="write 90, 10m or 1h 30m"):
        config.parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GB", 8 << 30), ("8GiB", 8 << 30), ("8g", 8 << 30), ("1.5 MB", 3 << 19), ("100", 100)],
)
def test_sizes(text: str, size: int) -> None:
    assert config.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "8XB", "-1", "1.5", "8 GB x"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="write 8GB"):
        config.parse_size(text)
