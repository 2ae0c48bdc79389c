"""Which profile, target and database are used: dbt's own rules, our variables first, contradictions as one error."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from lakehouse_analytics.cli import demo
from lakehouse_analytics.dbt import prepare
from lakehouse_analytics.dbt.profile import Jinja, ProfileError
from lakehouse_analytics.dbt.project import DbtProject, ManifestError
from lakehouse_analytics.doctor import data, project
from lakehouse_analytics.doctor.probe import ProbeContext, Status
from lakehouse_analytics.engines.duckdb import database_of
from lakehouse_analytics.engines.duckdb.resource import DuckDBResource
from lakehouse_analytics.engines.resources import engine
from lakehouse_analytics.settings import Settings, SettingsError
from manifests import medallion

PROFILES = """
shop:
  target: dev
  outputs:
    dev: {type: duckdb, path: warehouse/shop.duckdb}
    local: {type: duckdb, path: local.duckdb}
    trino: {type: trino, method: ldap, host: trino.example.com, port: 8443, user: ann, password: hunter-2,
            catalog: lake, schema: shop}
    certificate: {type: trino, method: certificate, host: trino.example.com, port: 8443, client_certificate: a.pem,
                  client_private_key: a.key, cert: ca.pem, catalog: lake, schema: shop}
    kerberos: {type: trino, method: kerberos, host: trino.example.com, port: 8443, user: a, catalog: lake, schema: shop}
    warehouse: {type: snowflake, account: a}
    memory: {type: duckdb}
    cloud: {type: duckdb, path: "md:shop"}
    unset: {type: duckdb, path: "{{ env_var('SHOP_FILE') }}"}
    odd: {type: duckdb, path: "{{ run_query('select 1') }}"}
    reads: {type: duckdb, path: "{{ env_var('LAKEHOUSE_DUCKDB_PATH') }}"}
    var: {type: duckdb, path: "{{ var('file') }}.duckdb"}
"""


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ordinary dbt project with its profile beside it; nothing of ours is set but where it is."""
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
    (folder / "profiles.yml").write_text(PROFILES)
    for name in ("DBT_PROFILES_DIR", "DBT_TARGET", "DBT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LAKEHOUSE_DBT_PROJECT_DIR", str(folder))
    return folder


def problem() -> str:
    """Of the project, as loading the location reports it."""
    with pytest.raises(ManifestError) as caught:
        DbtProject.from_settings(Settings.load()).manifest()
    return str(caught.value)


def test_an_ordinary_project_needs_nothing_else(shop: Path) -> None:
    settings = Settings.load()
    assert (settings.target, settings.profiles_dir, settings.engine_type.name) == ("dev", shop, "duckdb")
    assert settings.duckdb_path == shop / "warehouse" / "shop.duckdb"
    assert settings.target_path == shop / "target" / "dev"


@pytest.mark.parametrize(
    ("variables", "target"),
    [
        ({}, "dev"),
        ({"DBT_TARGET": "local"}, "local"),
        ({"LAKEHOUSE_ENV": "local"}, "local"),
        ({"LAKEHOUSE_ENV": "trino"}, "trino"),
        ({"LAKEHOUSE_ENV": "local", "DBT_TARGET": "dev"}, "local"),
        ({"LAKEHOUSE_DBT_TARGET": "dev", "LAKEHOUSE_ENV": "local", "DBT_TARGET": "trino"}, "dev"),
        ({"LAKEHOUSE_DBT_TARGET": "trino"}, "trino"),
    ],
)
def test_the_target(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], target: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = Settings.load()
    assert settings.target == target
    assert (settings.engine_type.name == "trino") == (target == "trino")


def test_the_environments_target_is_only_preferred(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shop / "profiles.yml").write_text("shop: {target: dev, outputs: {dev: {type: duckdb, path: a.duckdb}}}")
    monkeypatch.setenv("LAKEHOUSE_ENV", "local")
    assert Settings.load().target == "dev"


def test_the_folder_of_profiles(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def used() -> str:
        return Settings.load().duckdb_path.name

    for folder in ("home/.dbt", "by_dbt", "by_us"):
        (tmp_path / folder).mkdir(parents=True)
        text = f"shop: {{target: dev, outputs: {{dev: {{type: duckdb, path: {Path(folder).name[-5:]}.duckdb}}}}}}"
        (tmp_path / folder / "profiles.yml").write_text(text)
    assert used() == "shop.duckdb"
    (shop / "profiles.yml").rename(tmp_path / "away.yml")
    assert used() == ".dbt.duckdb"
    monkeypatch.setenv("DBT_PROFILES_DIR", str(tmp_path / "by_dbt"))
    assert used() == "y_dbt.duckdb"
    monkeypatch.setenv("LAKEHOUSE_DBT_PROFILES_DIR", str(tmp_path / "by_us"))
    assert used() == "by_us.duckdb"


@pytest.mark.parametrize("variable", ["LAKEHOUSE_DBT_PROFILES_DIR", "DBT_PROFILES_DIR"])
def test_a_folder_without_profiles_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "nowhere"))
    assert problem() == f"{variable} names {tmp_path / 'nowhere'}, which has no profiles.yml."


def test_no_profiles_at_all_names_the_variable(shop: Path, tmp_path: Path) -> None:
    (shop / "profiles.yml").unlink()
    assert problem() == (
        f"There is no profiles.yml in {shop} and none in {tmp_path / 'home' / '.dbt'}. Set LAKEHOUSE_DBT_PROFILES_DIR "
        "to the folder of the file that has profile `shop`, or write one with a target of type duckdb, trino or "
        "postgres."
    )


def test_a_project_without_a_profile_says_where_to_name_one(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shop / "dbt_project.yml").write_text("name: shop\n")
    (shop / "profiles.yml").write_text("{other: {outputs: {dev: {type: duckdb, path: other.duckdb}}, target: dev}}")
    assert problem() == (
        f"{shop / 'dbt_project.yml'} names no profile: add `profile:`, or set DBT_PROFILE. "
        f"{shop / 'profiles.yml'} has: other."
    )
    monkeypatch.setenv("DBT_PROFILE", "other")
    assert problem().startswith("There is no manifest at")


def test_a_warehouse_that_is_not_supported_names_the_targets_that_are(shop: Path) -> None:
    (shop / "profiles.yml").write_text(
        "shop: {target: prod, outputs: {prod: {type: bigquery}, dev: {type: duckdb}, qa: {type: trino}}}"
    )
    assert problem() == (
        f"{shop / 'profiles.yml'}: target `prod` of profile `shop` has type bigquery; this version runs on duckdb, "
        "trino and postgres. Name another target in LAKEHOUSE_DBT_TARGET: dev, qa."
    )


def test_a_profile_without_a_supported_target_says_to_add_one(shop: Path) -> None:
    (shop / "profiles.yml").write_text("shop: {target: prod, outputs: {prod: {type: bigquery}, dev: {type: bigquery}}}")
    assert problem() == (
        f"{shop / 'profiles.yml'}: target `prod` of profile `shop` has type bigquery; this version runs on duckdb, "
        "trino and postgres. Add a target of one of these types to the profile, and name it in LAKEHOUSE_DBT_TARGET."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shop: [", "is not valid YAML"),
        ("- shop", "must contain a YAML mapping, not a list"),
        ("other: {outputs: {}}", "has no profile `shop` with outputs, which dbt_project.yml names; it has: other."),
        ("shop: {outputs: }", "has no profile `shop` with outputs"),
        ("", "it has: none."),
        (
            "shop: {target: prod, outputs: {dev: {type: duckdb}}}",
            "has no target `prod`, which `target:` names; it has: dev.",
        ),
        ("shop: {outputs: {dev: {type: duckdb}}}", "has no target `default`"),
    ],
)
def test_a_wrong_profile_names_the_file(shop: Path, text: str, message: str) -> None:
    (shop / "profiles.yml").write_text(text)
    said = problem()
    assert str(shop / "profiles.yml") in said
    assert message in said


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere", "has no target `nowhere`, which LAKEHOUSE_DBT_TARGET names; it has: certificate, cloud,"),
        ("warehouse", "has type snowflake; this version runs on duckdb, trino and postgres"),
        ("unset", "`path` of target `unset` reads the environment variable SHOP_FILE, which is not set."),
        ("odd", "`path` of target `odd` cannot be rendered: 'run_query' is undefined"),
        ("var", "reads the variable `file` (dbt's --vars; LAKEHOUSE_DBT_VARS), which is not set."),
    ],
)
def test_a_target_that_cannot_be_used_is_one_error(
    shop: Path, monkeypatch: pytest.MonkeyPatch, target: str, message: str
) -> None:
    monkeypatch.setenv("LAKEHOUSE_DBT_TARGET", target)
    said = problem()
    assert str(shop / "profiles.yml") in said
    assert message in said


@pytest.mark.parametrize("target", ["memory", "cloud"])
def test_a_database_that_is_no_local_file_is_left_to_dbt(
    shop: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.setenv("LAKEHOUSE_DBT_TARGET", target)
    settings = Settings.load()
    assert settings.profile.database_file is None
    resource = engine(settings, dataclasses.replace(medallion().graph(), adapter="duckdb"))
    assert isinstance(resource, DuckDBResource)
    assert resource.path is None
    resource.wait_until_free(print)
    known = ProbeContext(timeout=1)
    assert project.settings(known).status == Status.OK
    finding = data.engine(known)
    assert finding.status == Status.UNCHECKED
    assert f"target `{target}`" in finding.message


def test_variables_of_dbt_reach_the_profile(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_DBT_TARGET", "var")
    monkeypatch.setenv("LAKEHOUSE_DBT_VARS", "{file: by_var}")
    assert Settings.load().duckdb_path == shop / "by_var.duckdb"


@pytest.mark.parametrize("text", ["[1]", "a b", "{a: ", "3", "{1: 2}", "null"])
def test_wrong_variables_of_dbt_are_one_error(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("LAKEHOUSE_DBT_VARS", text)
    with pytest.raises(SettingsError, match="LAKEHOUSE_DBT_VARS: expected a YAML or JSON mapping with names as keys"):
        Settings.load()


def test_a_file_other_than_the_profiles_is_one_error(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of the same name: the manifest could not tell the two apart.
    monkeypatch.setenv("LAKEHOUSE_DUCKDB_PATH", str(tmp_path / "other" / "shop.duckdb"))
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    _, line = str(caught.value).splitlines()
    assert line.startswith(
        f"  LAKEHOUSE_DUCKDB_PATH: is {tmp_path / 'other' / 'shop.duckdb'}, but target `dev` of profile `shop` in "
        f"{shop / 'profiles.yml'} has {shop / 'warehouse' / 'shop.duckdb'}; dbt would build in one database"
    )


def test_the_same_file_by_another_path_is_no_contradiction(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shop / "warehouse").mkdir()
    (tmp_path / "link").symlink_to(shop / "warehouse")
    monkeypatch.setenv("LAKEHOUSE_DUCKDB_PATH", str(tmp_path / "link" / "shop.duckdb"))
    assert Settings.load().duckdb_path == tmp_path / "link" / "shop.duckdb"


def test_a_profile_that_reads_the_variable_follows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_DBT_TARGET", "reads")
    default = Settings.load().duckdb_path
    assert default == Settings.model_fields["duckdb_path"].get_default(call_default_factory=True)
    monkeypatch.setenv("LAKEHOUSE_DUCKDB_PATH", "/data/shop.duckdb")
    assert Settings.load().duckdb_path == Path("/data/shop.duckdb")


def test_what_the_profile_names_itself_need_not_be_set_for_prod(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shop / "profiles.yml").write_text(
        "shop: {target: prod, outputs: {prod: {type: trino, method: none, host: trino.example.com, port: 8080, "
        "user: dbt, database: lake, schema: shop}}}"
    )
    monkeypatch.setenv("LAKEHOUSE_ENV", "prod")
    with pytest.raises(SettingsError, match="LAKEHOUSE_TIMEZONE: not set") as caught:
        Settings.load()
    assert "LAKEHOUSE_TRINO" not in str(caught.value)
    monkeypatch.setenv("LAKEHOUSE_TIMEZONE", "UTC")
    settings = Settings.load()
    assert (settings.trino_host, settings.trino_user, settings.trino_catalog) == ("trino.example.com", "dbt", "lake")


def test_a_profile_that_reads_our_variables_with_defaults_does_not_replace_them_for_prod(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = "{{ env_var('LAKEHOUSE_TRINO_HOST', 'localhost') }}"
    (shop / "profiles.yml").write_text(
        "shop: {target: prod, outputs: {prod: {type: trino, method: none, "
        f'host: "{host}", port: 8080, user: dbt, database: lake, schema: shop}}}}}}'
    )
    monkeypatch.setenv("LAKEHOUSE_ENV", "prod")
    monkeypatch.setenv("LAKEHOUSE_TIMEZONE", "UTC")
    with pytest.raises(SettingsError, match="LAKEHOUSE_TRINO_HOST: not set") as caught:
        Settings.load()
    assert "LAKEHOUSE_TRINO_USER" not in str(caught.value)


def test_rows_are_counted_on_the_profiles_trino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_DBT_TARGET", "trino")
    settings = Settings.load()
    where = (settings.trino_http_scheme, settings.trino_user, settings.trino_host, settings.trino_port)
    assert where == ("https", "ann", "trino.example.com", 8443)
    assert (settings.trino_catalog, settings.trino_auth) == ("lake", "password")
    assert settings.trino_password is not None
    assert settings.trino_password.get_secret_value() == "hunter-2"
    assert "hunter" not in repr(settings) + repr(settings.profile)


def test_a_certificate_of_the_profile_is_used(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_DBT_TARGET", "certificate")
    settings = Settings.load()
    files = (settings.trino_client_certificate, settings.trino_client_key, settings.trino_ca_bundle)
    assert files == (shop / "a.pem", shop / "a.key", shop / "ca.pem")
    assert (settings.trino_auth, settings.trino_http_scheme) == ("certificate", "https")


def test_a_log_in_that_cannot_count_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_DBT_TARGET", "kerberos")
    with pytest.raises(
        SettingsError, match="logs in to Trino with `method: kerberos`, but rows can only be counted with"
    ):
        Settings.load()
    monkeypatch.setenv("LAKEHOUSE_TRINO_HTTP_SCHEME", "https")
    monkeypatch.setenv("LAKEHOUSE_TRINO_JWT", "another")
    assert Settings.load().trino_auth == "jwt"


@pytest.mark.parametrize(
    ("variable", "value"),
    [("LAKEHOUSE_TRINO_HOST", "other"), ("LAKEHOUSE_TRINO_PORT", "8080"), ("LAKEHOUSE_TRINO_CATALOG", "other")],
)
def test_another_trino_than_the_profiles_is_one_error(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv("LAKEHOUSE_DBT_TARGET", "trino")
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=f"{variable}: is {value}, but target `trino` of profile `shop`"):
        Settings.load()


def test_a_contradiction_does_not_show_a_secret_of_the_profile(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shop / "profiles.yml").write_text(
        "shop: {target: a, outputs: {a: {type: trino, catalog: c, schema: s, "
        "host: \"{{ env_var('DBT_ENV_SECRET_HOST') }}\"}}}"
    )
    monkeypatch.setenv("DBT_ENV_SECRET_HOST", "hidden.example")
    monkeypatch.setenv("LAKEHOUSE_TRINO_HOST", "other")
    with pytest.raises(SettingsError, match="LAKEHOUSE_TRINO_HOST: is other, but target `a`") as caught:
        Settings.load()
    assert "hidden" not in str(caught.value)


def test_names_that_are_secret_are_compared_and_not_shown(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shop / "profiles.yml").write_text(
        "shop: {target: a, outputs: {a: {type: trino, host: h, catalog: c, "
        "schema: \"{{ env_var('DBT_ENV_SECRET_SCHEMA') }}\"}}}"
    )
    monkeypatch.setenv("DBT_ENV_SECRET_SCHEMA", "hidden")
    profile = Settings.load().profile
    theirs = {"type": "trino", "database": "c", "schema": "hidden", "path": None}
    prepare._verify_profile(profile, theirs)
    with pytest.raises(ManifestError, match="`schema` of target `a`") as caught:
        prepare._verify_profile(profile, {**theirs, "schema": "another"})
    assert "another" not in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("target", ["trino", "certificate"])
def test_a_log_in_of_the_profile_is_never_sent_without_encryption(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    monkeypatch.setenv("LAKEHOUSE_DBT_TARGET", target)
    monkeypatch.setenv("LAKEHOUSE_TRINO_HTTP_SCHEME", "http")
    with pytest.raises(SettingsError, match="LAKEHOUSE_TRINO_HTTP_SCHEME: must be https, because") as caught:
        Settings.load()
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("{{ 'a.example' if env_var('LAKEHOUSE_ENV', '') == 'trino' else 'b.example' }}", "b.example"),
        ("{{ env_var('LAKEHOUSE_REGION', 'eu') ~ '.example' }}", "eu.example"),
        ("{{ env_var('SHOP_HOST', env_var('LAKEHOUSE_TRINO_HOST', 'x')) }}", "shop.example"),
    ],
)
def test_an_expression_with_our_variables_names_the_host_that_dbt_uses(
    shop: Path, monkeypatch: pytest.MonkeyPatch, host: str, expected: str
) -> None:
    (shop / "profiles.yml").write_text(
        'shop: {target: a, outputs: {a: {type: trino, host: "' + host + '", catalog: c, schema: s, user: a}}}'
    )
    monkeypatch.setenv("SHOP_HOST", "shop.example")
    assert Settings.load().trino_host == expected


def test_an_environment_on_trino_with_a_target_of_duckdb_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKEHOUSE_ENV", "trino")
    monkeypatch.setenv("LAKEHOUSE_DBT_TARGET", "dev")
    with pytest.raises(SettingsError, match="LAKEHOUSE_ENV: trino runs on Trino, but target `dev` of profile `shop`"):
        Settings.load()


@pytest.mark.parametrize(
    "path",
    ["lake.duckdb", "lake.2026.duckdb", ".lake.duckdb", "lake", "a b.db", "ünï.duckdb", "x-y.z.w", "/d.d/lake.duckdb"],
)
def test_a_database_has_the_name_that_dbt_and_duckdb_give_it(tmp_path: Path, path: str) -> None:
    import duckdb
    from dbt.adapters.duckdb.credentials import DuckDBCredentials

    assert database_of(path) == DuckDBCredentials.path_derived_database_name(path)
    with duckdb.connect(tmp_path / Path(path).name) as connection:
        assert connection.execute("select current_database()").fetchall() == [(database_of(path),)]


TEMPLATES = [
    "{{ env_var('SET') }}",
    "{{env_var(\"SET\",'x')}}.duckdb",
    "a/{{ env_var('UNSET', 'default') }}/{{ var('given') }}\n",
    "{{ env_var('SET') | as_text }}-{{ var('absent', '') }}",
    "{{ env_var('SET', 'it''s') }}",
    "{{ env_var('SET') ~ '_x' }}",
    "{{ 'a' if env_var('UNSET', '') else 'b' }}",
    "{% if env_var('SET') == 'value' %}yes{% endif %}",
    "{# a comment #}x",
    "{{ env_var('UNSET') }}",
    "plain",
]


@pytest.mark.parametrize("text", TEMPLATES)
def test_a_template_is_rendered_as_dbt_renders_it(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    from dbt.config.renderer import ProfileRenderer
    from dbt_common.context import set_invocation_context

    environment, variables = {"SET": "value"}, {"given": "v"}
    set_invocation_context(environment)
    try:
        theirs = ProfileRenderer(variables).render_value(text)
    except Exception:
        with pytest.raises(ProfileError):
            Jinja(environment, {}, variables).render(text, "profiles.yml")
    else:
        assert Jinja(environment, {}, variables).render(text, "profiles.yml") == theirs


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"LAKEHOUSE_DBT_PROFILES_DIR": "/nowhere"},
            "LAKEHOUSE_DBT_PROFILES_DIR names /nowhere, which has no profiles.yml.",
        ),
        ({"LAKEHOUSE_DBT_TARGET": "warehouse"}, "has type snowflake; this version runs on duckdb, trino and postgres."),
    ],
)
def test_doctor_finds_a_profile_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    known = ProbeContext(timeout=1)
    assert project.settings(known).status == Status.OK
    finding = project.manifest(known)
    assert finding.status == Status.FAILED
    assert message in finding.message
    assert "LAKEHOUSE_DBT_PROFILES_DIR" in finding.fix


def test_the_demo_fills_no_other_projects_database(shop: Path) -> None:
    with pytest.raises(ManifestError, match=f"LAKEHOUSE_DBT_PROJECT_DIR names {shop}: unset it"):
        demo.run(config_path=None, count=None, seed=None)
    assert {path.name for path in shop.iterdir()} == {"dbt_project.yml", "profiles.yml"}
