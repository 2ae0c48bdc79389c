"""Completes the settings with values from the dbt profile, and reports contradictions between the two."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lakehouse_analytics.common.environment import PREFIX, variable
from lakehouse_analytics.common.names import joined
from lakehouse_analytics.common.redact import MASK
from lakehouse_analytics.common.text import MAX_TEXT, brief
from lakehouse_analytics.dbt.profile import Profile, ProfileError, is_secret
from lakehouse_analytics.engines.registry import ENGINES

if TYPE_CHECKING:
    from lakehouse_analytics.settings import Settings


def with_profile(settings: Settings) -> tuple[Settings, list[str]]:
    """Return settings with values of the dbt profile instead of our defaults, and one message per contradiction.

    A profile that cannot be read is not reported here, because not every command needs one: `DbtProject` reports it.
    """
    try:
        profile = settings.profile
    except ProfileError:
        return settings, []
    problems, found = [], {}
    if problem := other_engine(settings, profile):
        return settings, [problem]
    engine = profile.engine
    try:
        theirs = engine.settings_of(profile)
        if not any(getattr(settings, name) for name in engine.log_in_settings):
            theirs |= engine.log_in_of(profile)
    except ProfileError as error:
        return settings, [str(error)]
    for name, value in theirs.items():
        if name not in settings.model_fields_set:
            found[name] = value
        elif name in engine.same_as_profile and not _same(getattr(settings, name), value):
            secret = any(map(is_secret, profile.variables(*engine.same_as_profile[name])))
            ours, other = brief(getattr(settings, name), MAX_TEXT), MASK if secret else brief(value, MAX_TEXT)
            problems.append(
                f"{variable(name)}: is {ours}, but {profile.where} has {other}; dbt would build in one database, "
                "and rows would be counted in another. Unset the variable, or let the profile read it: "
                f"{{{{ env_var('{variable(name)}') }}}}"
            )
    chosen = settings.model_copy(update=found) if found else settings
    problems += engine.problems_of(chosen, found, profile.where)
    chosen.__dict__["profile"] = profile  # keep it: the environment may change later
    return chosen, problems


def other_engine(settings: Settings, profile: Profile) -> str | None:
    """Return a message if the dbt target does not have the engine that the settings select; None otherwise."""
    solution = f"name a target of type {{}} in {PREFIX}DBT_TARGET"
    if settings.env == "trino" and settings.engine not in (None, "trino"):
        return f"{PREFIX}ENGINE: is {settings.engine}, but {PREFIX}ENV=trino means trino; set {PREFIX}ENV=local or prod"
    wanted = settings.engine or ("trino" if settings.env == "trino" else None)
    if wanted and profile.adapter != wanted:
        setting = f"{PREFIX}ENGINE: is {wanted}" if settings.engine else f"{PREFIX}ENV: {settings.env} runs on Trino"
        return f"{setting}, but {profile.where} has type {profile.adapter}; {solution.format(wanted)}"
    if not wanted and settings.env == "prod" and not profile.engine.concurrent_writers:
        servers = joined([name for name, engine in ENGINES.items() if engine.concurrent_writers], "or")
        return (
            f"{PREFIX}ENV: prod runs on a server, but {profile.where} has type {profile.adapter}; "
            f"{solution.format(servers)}, or set {PREFIX}ENGINE={profile.adapter} to run on one machine"
        )
    return None


def named_by_profile(settings: Settings) -> set[str]:
    """Return the engine's settings that the dbt profile has, unless it reads them from our own variables."""
    try:
        engine = settings.profile.engine
        found = engine.settings_of(settings.profile)
    except ProfileError:
        return set()
    fields = {**engine.same_as_profile, **engine.also_in_profile}
    return {
        name
        for name in found.keys() & fields.keys()
        if f"{PREFIX}{name.upper()}" not in settings.profile.variables(*fields[name])
    }


def _same(ours: object, theirs: object) -> bool:
    if isinstance(ours, Path):
        return ours.resolve() == Path(str(theirs)).resolve()
    return str(ours).lower() == str(theirs).lower()
