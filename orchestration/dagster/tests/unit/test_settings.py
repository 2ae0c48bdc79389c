from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from lakehouse_analytics.engines.registry import ENGINES
from lakehouse_analytics.settings import PREFIX, Settings, SettingsError, repository_root

PROD = {
    "LAKEHOUSE_ENV": "prod",
    "LAKEHOUSE_TRINO_HOST": "trino.internal",
    "LAKEHOUSE_TRINO_USER": "dagster",
    "LAKEHOUSE_TRINO_CATALOG": "iceberg",
    "LAKEHOUSE_TIMEZONE": "Europe/Berlin",
}
SECRETS = {
    "LAKEHOUSE_TRINO_PASSWORD": "tr1no-s3cret",
    "LAKEHOUSE_SLACK_WEBHOOK_URL": "https://hooks.slack.example/T0/s3cret-hook",
    "LAKEHOUSE_SMTP_PASSWORD": "sm7p-s3cret",
}


def load(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Settings.load()


def mistakes(monkeypatch: pytest.MonkeyPatch, **variables: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(monkeypatch, **variables)
    head, *lines = str(caught.value).splitlines()
    assert head == "The environment is not usable:"
    return [line.strip() for line in lines]


def test_nothing_set_is_one_machine_with_duckdb(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch)
    assert (settings.env, settings.target, settings.timezone) == ("local", "local", "UTC")
    assert settings.daily_refresh_cron == "0 2 * * *"
    assert settings.notify == ("log",)
    assert settings.dbt_project_dir == repository_root() / "dbt"
    assert settings.profiles_dir == settings.dbt_project_dir
    assert settings.target_path == settings.dbt_project_dir / "target" / "local"


def test_the_target_folder_follows_project_and_target(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, LAKEHOUSE_DBT_PROJECT_DIR="/p", LAKEHOUSE_DBT_TARGET="trino")
    assert settings.target_path == Path("/p/target/trino")
    assert load(monkeypatch, LAKEHOUSE_DBT_TARGET_PATH="/t").target_path == Path("/t")


def test_prod_with_all_it_needs_runs_on_trino(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, **PROD)
    assert settings.target == "trino"
    [mistake] = mistakes(monkeypatch, LAKEHOUSE_DBT_TARGET="local")
    assert mistake.startswith("LAKEHOUSE_ENV: prod runs on a server, but target `local` of profile `lakehouse` in ")


@pytest.mark.parametrize("value", ["production", "Prod", "dev", "local "])
def test_an_unknown_environment_is_an_error(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    assert mistakes(monkeypatch, LAKEHOUSE_ENV=value) == ["LAKEHOUSE_ENV: expected one of: local, trino, prod"]


def test_prod_lists_everything_missing_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = mistakes(monkeypatch, LAKEHOUSE_ENV="prod")
    assert {line.split(":")[0] for line in lines} == {
        PREFIX + name.upper() for name in (*ENGINES["trino"].required_in_prod, "timezone")
    }
    assert all("not set, needed because LAKEHOUSE_ENV=prod" in line for line in lines)


def test_a_build_of_an_image_for_prod_needs_no_trino(monkeypatch: pytest.MonkeyPatch) -> None:
    """A project may read LAKEHOUSE_ENV while it is parsed: the manifest is then made with production's."""
    monkeypatch.setenv("LAKEHOUSE_ENV", "prod")
    assert Settings.load(complete=False).engine_type.name == "trino"
    # Nor what only a run needs: the pods have it from a Secret.
    for name, value in {"NOTIFY": "slack", "TRINO_CA_BUNDLE": "/etc/trino-ca/ca.pem", "AIRBYTE_USER": "a"}.items():
        monkeypatch.setenv(f"LAKEHOUSE_{name}", value)
    assert Settings.load(complete=False).notify == ("slack",)
    monkeypatch.setenv("LAKEHOUSE_TIMEZONE", "Mars/Olympus")
    with pytest.raises(SettingsError, match="Mars/Olympus"):
        Settings.load(complete=False)


def test_missing_wrong_and_misspelt_variables_are_told_together(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = mistakes(
        monkeypatch,
        LAKEHOUSE_ENV="prod",
        LAKEHOUSE_TRINO_PORT="https",
        LAKEHOUSE_TIMEZON="UTC",
        LAKEHOUSE_NOTIFY="slack",
    )
    assert {line.split(":")[0] for line in lines} == {
        "LAKEHOUSE_TIMEZON",
        "LAKEHOUSE_TRINO_PORT",
        "LAKEHOUSE_TRINO_HOST",
        "LAKEHOUSE_TRINO_USER",
        "LAKEHOUSE_TRINO_CATALOG",
        "LAKEHOUSE_TIMEZONE",
        "LAKEHOUSE_SLACK_WEBHOOK_URL",
    }


@pytest.mark.parametrize("name", sorted(PROD.keys() - {"LAKEHOUSE_ENV"}))
def test_an_empty_variable_is_a_missing_one(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    [line] = mistakes(monkeypatch, **{**PROD, name: ""})
    assert line.startswith(f"{name}: not set")


def test_empty_variables_leave_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = load(monkeypatch)
    assert load(monkeypatch, **{PREFIX + name.upper(): "" for name in Settings.model_fields}) == defaults


def test_slack_asks_for_its_webhook(monkeypatch: pytest.MonkeyPatch) -> None:
    [line] = mistakes(monkeypatch, LAKEHOUSE_NOTIFY="log,slack")
    assert line.startswith("LAKEHOUSE_SLACK_WEBHOOK_URL: not set, needed because LAKEHOUSE_NOTIFY has slack")
    hook = SECRETS["LAKEHOUSE_SLACK_WEBHOOK_URL"]
    assert load(monkeypatch, LAKEHOUSE_SLACK_WEBHOOK_URL=hook).notify == ("log", "slack")


def test_smtp_asks_for_server_sender_and_receivers(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = mistakes(monkeypatch, LAKEHOUSE_NOTIFY="smtp", LAKEHOUSE_SMTP_TO=" , ")
    assert {line.split(":")[0] for line in lines} == {f"LAKEHOUSE_SMTP_{name}" for name in ("HOST", "FROM", "TO")}
    assert len(lines) == 3
    settings = load(
        monkeypatch,
        LAKEHOUSE_SMTP_HOST="mail",
        LAKEHOUSE_SMTP_FROM="lake@example.com",
        LAKEHOUSE_SMTP_TO="a@example.com, b@example.com,",
    )
    assert settings.smtp_to == ("a@example.com", "b@example.com")


@pytest.mark.parametrize("value", [",", " , ", ",,"])
@pytest.mark.parametrize("name", ["NOTIFY", "SMTP_TO", "AIRBYTE_WORKSPACES", "AIRBYTE_INCLUDE", "AIRBYTE_EXCLUDE"])
def test_a_list_without_a_name_is_not_the_default(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    [line] = mistakes(monkeypatch, **{PREFIX + name: value})
    assert line == f"{PREFIX}{name}: expected at least one name; several are separated by commas"


def test_a_notifier_that_is_named_twice_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, LAKEHOUSE_NOTIFY="log, log").notify == ("log",)


@pytest.mark.parametrize(
    "address",
    [
        "data", "data@", "@example.com", "a b@example.com", "a@example.com b@example.com", "a@example.com\nBcc: x@y.z",
        "dätä@example.com", "group: a@example.com;", "<a@example.com", "a@@example.com",
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["SMTP_FROM", "SMTP_TO"])
def test_what_is_no_mail_address_is_an_error(monkeypatch: pytest.MonkeyPatch, name: str, address: str) -> None:
    [line] = mistakes(monkeypatch, **{PREFIX + name: address})
    assert line.startswith(f"{PREFIX}{name}: expected an address such as data@example.com, but found ")


@pytest.mark.parametrize(
    "address",
    [
        "a@example.com",
        "Data Team <a@example.com>",
        "a+b@mail",
        '"a, b" <a@example.com>',
        "Datenteam München <a@example.com>",
    ],
)
def test_mail_addresses_may_have_a_name(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    assert load(monkeypatch, LAKEHOUSE_SMTP_FROM=address).smtp_from == address


@pytest.mark.parametrize("host", ["smtp://mail", "mail:587", "mail server", "a@mail"])
def test_what_is_no_mail_server_is_an_error(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    [line] = mistakes(monkeypatch, LAKEHOUSE_SMTP_HOST=host)
    assert line.startswith("LAKEHOUSE_SMTP_HOST: expected the name of a host")


@pytest.mark.parametrize("host", ["mail:587", "mail.example.com:25", "10.0.0.1:25"])
def test_a_mail_server_with_its_port_names_the_ports_variable(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    [line] = mistakes(monkeypatch, LAKEHOUSE_SMTP_HOST=host)
    assert "LAKEHOUSE_SMTP_PORT" in line


@pytest.mark.parametrize("host", ["mail", "mail.example.com", "10.0.0.1", "::1", "fe80::1"])
def test_names_and_addresses_are_mail_servers(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    assert load(monkeypatch, LAKEHOUSE_SMTP_HOST=host).smtp_host == host


@pytest.mark.parametrize("url", ["hooks.slack.com/s3cret", "ftp://s3cret", "s3cret", "https:///s3cret"])
def test_a_webhook_is_a_url_and_never_shown(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    [line] = mistakes(monkeypatch, LAKEHOUSE_SLACK_WEBHOOK_URL=url)
    assert line == "LAKEHOUSE_SLACK_WEBHOOK_URL: expected a URL such as https://hooks.slack.com/services/…"


@pytest.mark.parametrize("value", ["999999999d", "99999999999999d", "36501d", "9" * 5000 + "s"])
@pytest.mark.parametrize("name", ["AIRBYTE_LOOKBACK", "AIRBYTE_OVERLAP", "AFTER_DEADLINE", "MAINTENANCE_FLOOR"])
def test_a_duration_that_no_calendar_holds_is_an_error(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    [line] = mistakes(monkeypatch, **{PREFIX + name: value})
    assert line.startswith(f"{PREFIX}{name}: expected a")
    assert len(line) < 120


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_long_value_is_never_shown_whole(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """If a whole file is pasted into the wrong field, neither a log nor a page quotes all of it."""
    monkeypatch.setenv(PREFIX + name.upper(), "x" * 100_000)
    try:
        Settings.load()
    except SettingsError as error:
        assert len(str(error)) < 2_000  # noqa: PT017  # most settings are texts, and take it


PATHS = [name for name, field in Settings.model_fields.items() if "Path" in str(field.annotation)]


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("value", ["x" * 256, "/" + "a/" * 2_100, "é" * 128])
def test_a_path_that_no_file_can_have_is_an_error(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    first, *_ = mistakes(monkeypatch, **{PREFIX + name.upper(): value})
    assert first.startswith(f"{PREFIX}{name.upper()}: expected a path, but found '{value[:59]}")
    assert first.endswith("a path has at most 4,095 bytes, and each name in it at most 255")


@pytest.mark.parametrize("name", PATHS)
def test_a_home_of_nobody_is_an_error(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    first, *_ = mistakes(monkeypatch, **{PREFIX + name.upper(): "~no-such-user/x"})
    assert first == f"{PREFIX}{name.upper()}: expected a path, but found '~no-such-user/x': no such user's home"


@pytest.mark.parametrize("name", PATHS)
def test_the_longest_path_is_a_path(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(PREFIX + name.upper(), "x" * 255)
    try:
        Settings.load()
    except SettingsError as error:  # a certificate needs more than a name
        assert "expected a path" not in str(error)  # noqa: PT017


def test_an_unknown_notifier_is_an_error_that_lists_the_known(monkeypatch: pytest.MonkeyPatch) -> None:
    [line] = mistakes(monkeypatch, LAKEHOUSE_NOTIFY="log,pager")
    assert line.startswith("LAKEHOUSE_NOTIFY: ")
    assert all(known in line for known in ("log", "slack", "smtp"))


def test_a_wrong_zone_is_an_error_with_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    [line] = mistakes(monkeypatch, LAKEHOUSE_TIMEZONE="Europe/Berlinn")
    assert "LAKEHOUSE_TIMEZONE: 'Europe/Berlinn' is not an IANA time zone" in line
    assert "did you mean Europe/Berlin?" in line


@pytest.mark.parametrize("zone", ["CEST", "+02:00", "../etc/passwd", "utc "])
def test_only_iana_zones_are_zones(monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    [line] = mistakes(monkeypatch, LAKEHOUSE_TIMEZONE=zone)
    assert line.startswith("LAKEHOUSE_TIMEZONE: ")


@pytest.mark.parametrize("cron", ["2am", "0 2 * *", "61 2 * * *", "* * * * * *"])
def test_a_wrong_cron_is_an_error(monkeypatch: pytest.MonkeyPatch, cron: str) -> None:
    [line] = mistakes(monkeypatch, LAKEHOUSE_DAILY_REFRESH_CRON=cron)
    assert f"LAKEHOUSE_DAILY_REFRESH_CRON: '{cron}' is not a cron expression" in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TRINO_PORT", "0"),
        ("TRINO_PORT", "65536"),
        ("SMTP_PORT", "smtp"),
        ("SMTP_STARTTLS", "perhaps"),
        ("DUCKDB_LOCK_TIMEOUT", "-1"),
        ("TRINO_HTTP_SCHEME", "ftp"),
    ],
)
def test_wrong_values_name_their_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    [line] = mistakes(monkeypatch, **{PREFIX + name: value})
    assert line.startswith(f"{PREFIX}{name}: ")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("LAKEHOUSE_TIMEZON", "LAKEHOUSE_TIMEZONE"),
        ("LAKEHOUSE_TIME_ZONE", "LAKEHOUSE_TIMEZONE"),
        ("LAKEHOUSE_DUCKDB_PAHT", "LAKEHOUSE_DUCKDB_PATH"),
        ("LAKEHOUSE_TRINO_CATALOGUE", "LAKEHOUSE_TRINO_CATALOG"),
        ("LAKEHOUSE_SLACK_WEBHOOK", "LAKEHOUSE_SLACK_WEBHOOK_URL"),
        ("LAKEHOUSE_DBT_PROJECTS_DIR", "LAKEHOUSE_DBT_PROJECT_DIR"),
        ("LAKEHOUSE_NOTIFIER", "LAKEHOUSE_NOTIFY"),
    ],
)
def test_a_near_miss_is_an_error_with_the_right_name(monkeypatch: pytest.MonkeyPatch, wrong: str, right: str) -> None:
    assert mistakes(monkeypatch, **{wrong: "x"}) == [f"{wrong}: no such setting; did you mean {right}?"]


@pytest.mark.parametrize(
    "name",
    [
        # Kubernetes sets these in every pod beside a service `lakehouse` or `lakehouse-trino`.
        "LAKEHOUSE_PORT",
        "LAKEHOUSE_PORT_8080_TCP",
        "LAKEHOUSE_PORT_8080_TCP_ADDR",
        "LAKEHOUSE_SERVICE_HOST",
        "LAKEHOUSE_SERVICE_PORT",
        "LAKEHOUSE_SERVICE_PORT_HTTP",
        "LAKEHOUSE_TRINO_SERVICE_HOST",
        "LAKEHOUSE_TRINO_SERVICE_PORT",
        "LAKEHOUSE_TRINO_PORT_8080_TCP",
        "LAKEHOUSE_TRINO_PORT_8080_TCP_PORT",
        # A dbt project's own `env_var()`s.
        "LAKEHOUSE_FOO",
        "LAKEHOUSE_START_DATE",
    ],
)
def test_other_programs_variables_are_none_of_our_business(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert load(monkeypatch, **{name: "tcp://10.0.0.1:8080"}).env == "local"


def test_a_password_is_never_sent_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    [line] = mistakes(monkeypatch, LAKEHOUSE_TRINO_PASSWORD="tr1no-s3cret")
    assert line == "LAKEHOUSE_TRINO_HTTP_SCHEME: must be https, because LAKEHOUSE_TRINO_PASSWORD is set"


def test_trino_by_default_is_the_local_stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, LAKEHOUSE_ENV="trino")
    assert (settings.target, settings.engine_type.name, settings.trino_auth) == ("trino", "trino", "none")
    assert (settings.trino_host, settings.trino_catalog) == ("localhost", "lakehouse")


@pytest.mark.parametrize(("name", "method"), [("PASSWORD", "password"), ("JWT", "jwt")])
def test_what_is_set_says_how_to_log_in(monkeypatch: pytest.MonkeyPatch, name: str, method: str) -> None:
    variables = {f"LAKEHOUSE_TRINO_{name}": "x", "LAKEHOUSE_TRINO_HTTP_SCHEME": "https"}
    assert load(monkeypatch, **variables).trino_auth == method


def test_a_client_certificate_needs_its_key_and_both_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    certificate, key = tmp_path / "client.pem", tmp_path / "client.key"
    certificate.touch()
    https = {"LAKEHOUSE_TRINO_HTTP_SCHEME": "https", "LAKEHOUSE_TRINO_CLIENT_CERTIFICATE": str(certificate)}
    [line] = mistakes(monkeypatch, **https)
    assert line.startswith("LAKEHOUSE_TRINO_CLIENT_KEY: not set")
    [line] = mistakes(monkeypatch, LAKEHOUSE_TRINO_CLIENT_KEY=str(key))
    assert line == f"LAKEHOUSE_TRINO_CLIENT_KEY: {key} does not exist or cannot be read"
    key.touch()
    assert load(monkeypatch).trino_auth == "certificate"


def test_two_ways_to_log_in_are_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    [line] = mistakes(
        monkeypatch,
        LAKEHOUSE_TRINO_PASSWORD="s3cret",
        LAKEHOUSE_TRINO_JWT="s3cret",
        LAKEHOUSE_TRINO_HTTP_SCHEME="https",
    )
    assert line.startswith("LAKEHOUSE_TRINO_PASSWORD, LAKEHOUSE_TRINO_JWT: set only one of them")
    assert "s3cret" not in line


def test_session_properties_are_a_json_object(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "LAKEHOUSE_TRINO_SESSION_PROPERTIES"
    assert load(monkeypatch, **{name: '{"a": "1"}'}).trino_session_properties == {"a": "1"}
    for wrong in ("a=1", "[1]", '{"a": {}}'):
        [line] = mistakes(monkeypatch, **{name: wrong})
        assert line.startswith(name)


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, LAKEHOUSE_TRINO_HTTP_SCHEME="https", **SECRETS)
    shown = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert settings.trino_password is not None
    assert settings.trino_password.get_secret_value() == SECRETS["LAKEHOUSE_TRINO_PASSWORD"]
    assert [value for value in SECRETS.values() if value in shown] == []


def test_secrets_are_not_in_errors_nor_in_what_caused_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load(monkeypatch, LAKEHOUSE_ENV="prod", LAKEHOUSE_TRINO_PORT="s3cret-port", LAKEHOUSE_NOTIFY="slack,s3cret")
    error: BaseException | None = caught.value
    while error is not None:
        assert "s3cret" not in f"{error} {error!r}"
        error = error.__cause__ or error.__context__


def example() -> dict[str, str]:
    """`.env.example`: each variable, commented out, with its default."""
    lines = (repository_root() / ".env.example").read_text().splitlines()
    found = [re.fullmatch(r'#([A-Z][A-Z0-9_]*)=("?)(.*)\2', line) for line in lines]
    pairs = [(match[1], match[3]) for match in found if match]
    assert len(pairs) == len(dict(pairs)), "a variable is documented twice"
    return dict(pairs)


def test_the_example_documents_exactly_the_settings() -> None:
    assert set(example()) == {PREFIX + name.upper() for name in Settings.model_fields}


def test_the_example_shows_the_defaults() -> None:
    root = repository_root()
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, Path):
            default = default.relative_to(root)
        elif isinstance(default, tuple):
            default = ",".join(default)
        elif isinstance(default, bool):
            default = str(default).lower()
        elif isinstance(default, timedelta):
            default = f"{default.days}d" if default.days else f"{default.seconds // 60}m"
        shown = example()[PREFIX + name.upper()]
        assert shown == ("" if default is None else f"{default:g}" if isinstance(default, float) else str(default)), (
            name
        )


def test_the_example_describes_every_variable_in_the_words_of_the_settings() -> None:
    text = (repository_root() / ".env.example").read_text()
    for name, field in Settings.model_fields.items():
        assert f"# {field.description}\n#{PREFIX}{name.upper()}=" in text


def test_the_example_used_as_it_stands_sets_nothing() -> None:
    lines = (repository_root() / ".env.example").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []


def test_the_example_uncommented_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = load(monkeypatch)
    monkeypatch.chdir(repository_root())
    settings = load(monkeypatch, **example())
    for name in Settings.model_fields:
        value, default = getattr(settings, name), getattr(defaults, name)
        assert (value.absolute() if isinstance(value, Path) else value) == default


@pytest.mark.parametrize(("target", "default"), [("local", 2), ("trino", 4)])
@pytest.mark.parametrize("said", ["7", "", None])
def test_dbt_s_threads_are_read_by_the_profile(
    monkeypatch: pytest.MonkeyPatch, target: str, default: int, said: str | None
) -> None:
    from dbt.config.renderer import ProfileRenderer
    from dbt_common.clients.system import load_file_contents
    from dbt_common.context import set_invocation_context

    name = "LAKEHOUSE_DBT_THREADS"
    settings = load(monkeypatch, **({name: said} if said is not None else {}))
    set_invocation_context({name: said} if said is not None else {})
    profile = yaml.safe_load(load_file_contents(str(repository_root() / "dbt" / "profiles.yml")))
    rendered = ProfileRenderer({}).render_data(profile["lakehouse"]["outputs"][target])
    assert rendered["threads"] == (settings.dbt_threads or default) == (int(said) if said else default)
