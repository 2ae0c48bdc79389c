"""A secret reaches no message, and an ordinary word that happens to be one stays readable elsewhere."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from lakehouse_analytics.common.redact import MASK, Redactor, ordinary_words, secret_values

#: What doctor and ingest print, whatever the passwords are.
TEXT = """\
the instance in /opt/dagster/dagster_home answers: 2 runs; dagster.yaml is read-only
Trino 476 at http://trino.lakehouse.svc:8080 lets lakehouse in (no log-in)
lakehouse has bronze, gold, metrics, raw, silver; 14 tables, true of 8080 rows and 12345 others
postgres.example refuses user "lakehouse", see orchestration/dagster/dagster_workspace.yaml of 2026-01-01
Check LAKEHOUSE_TRINO_PASSWORD and the token; see LAKEHOUSE_AIRBYTE_CLIENT_SECRET. s3://lake/warehouse@v1
"""
COMMON = [
    *["dagster", "lakehouse", "trino", "Trino", "postgres", "true", "8080", "admin", "gold", "token", "a", "no", "1"],
    *["instance", "dagster_home", "dagster.yaml", "run", "LAKEHOUSE", "12345", "user", "workspace", "password"],
]


@pytest.mark.parametrize("secret", COMMON)
def test_a_secret_that_is_a_common_word_hides_no_other_use_of_the_word(secret: str) -> None:
    assert Redactor([secret])(TEXT) == TEXT


def test_a_word_that_the_caller_prints_is_common() -> None:
    assert Redactor(["jdoe"], public=["jdoe"])("/home/jdoe/lake") == "/home/jdoe/lake"
    assert Redactor(["jdoe"])("/home/jdoe/lake") == f"/home/{MASK}/lake"


@pytest.mark.parametrize("secret", ["ton", "wait", "ward", "reho"])
def test_a_short_secret_is_no_part_of_a_longer_word(secret: str) -> None:
    text = "the warehouse of skeletons awaits forwards"
    assert Redactor([secret])(text) == text


@given(st.sampled_from(sorted(ordinary_words())), st.sampled_from(["{0}", "/{0}/x", "{0}.yaml", "({0})", "my{0}s"]))
def test_every_word_of_the_program_stays_readable(word: str, context: str) -> None:
    text = context.format(word)
    for secret in (word, word.upper(), word.capitalize()):
        assert Redactor([secret])(text) == text


POSITIONS = [
    *[
        "postgresql://u:{0}@h/d",
        "redis://:{0}@h/0",
        "http://h/?token={0}&x=1",
        "Authorization: Bearer {0}",
        "Basic {0}",
    ],
    *[
        "password={0}",
        "password: {0}",
        'wrong password "{0}"',
        "LAKEHOUSE_TRINO_PASSWORD={0}",
        "api_key = {0},",
        "token={0}.",
    ],
    *['{{"password": "{0}"}}', "{{'s3.secret-access-key': '{0}'}}"],
]


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("secret", COMMON)
def test_a_common_word_is_hidden_where_it_is_the_secret(position: str, secret: str) -> None:
    assert Redactor([secret])(position.format(secret)) == position.format(MASK)


def test_a_password_of_an_address_is_hidden_although_it_is_unknown() -> None:
    assert (
        Redactor([])("to postgresql://me:other-one@h:5432/d, s3://b/k@v")
        == f"to postgresql://me:{MASK}@h:5432/d, s3://b/k@v"
    )


printable = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=8, max_size=30)
anything = st.text(min_size=8, max_size=30)
around = st.one_of(st.text(max_size=8), st.sampled_from(["user", "x1", '"', "\\n", "%40", "://u:", "@host", "="]))


def spellings(secret: str) -> list[str]:
    return [secret, quote(secret, safe=""), json.dumps(secret)[1:-1], repr(secret)[1:-1]]


@given(st.one_of(printable, anything), around, around, st.integers(0, 3))
@example("correcthorse", "user", "9", 0)
@example("hunter22", "is", "not", 0)
def test_an_unusual_secret_survives_nowhere(secret: str, before: str, after: str, spelling: int) -> None:
    assume(len(secret.strip()) >= 8 and secret.strip().lower() not in ordinary_words())
    shown = spellings(secret)[spelling]
    assume(shown not in before + MASK + after)
    assert shown not in Redactor([secret])(before + shown + after)


short = st.text(st.characters(codec="ascii", categories=["Ll", "Lu", "Nd"]), min_size=3, max_size=7)
beside = st.sampled_from(["", " ", '"', "'", "<", "=", ":", "/", "@", "_", "-", "\n", "\\n", "%40", "(", ".", ","])


@given(short, beside, beside)
def test_a_short_secret_survives_nowhere_as_a_word(secret: str, before: str, after: str) -> None:
    ordinary = secret.lower() in ordinary_words() or (secret.isdecimal() and len(secret) <= 5)
    assume(not ordinary)
    assume(not after.startswith("%") or after == "%40")
    assert secret not in Redactor([secret])(before + secret + after)


@given(st.lists(printable, max_size=4), st.text(max_size=40))
def test_masking_twice_is_masking_once(secrets: list[str], text: str) -> None:
    assume(not any(MASK in secret or secret.strip("* ") == "" for secret in secrets))
    redact = Redactor(secrets)
    assert redact(redact(text)) == redact(text)


def test_the_values_of_a_configuration_that_are_secret() -> None:
    configuration = {
        "storage": {"password": "p1", "hosts": [{"api_key": "p2", "name": "n"}]},
        "uri": "postgresql://me:p@3/x@h/d?sslpassword=p4&sslmode=require",
        "SLACK_WEBHOOK": "https://hooks.example/p5",
        "OAUTH2_TOKEN_URL": "https://login.example/token",
        "LAKEHOUSE_WEBHOOK_HOST": "webhook.example",
        "LAKEHOUSE_WEBHOOK_PORT": 8089,
        "LAKEHOUSE_WEBHOOK_TOKEN": "webhook-p8",
        "CLIENT_SECRET_FILE": "/run/secrets/client",
        "s3.secret-access-key": "/wJalr/K7MDENG",
        "ODD_PASSWORD": "a://b",
        "attach": [{"path": "postgres:dbname=shop password='p 6' user=me"}, {"path": "Server=h;Pwd=p7;Database=d"}],
        "token": True,
        "pin_secret": 77,
    }
    expected = {"p1", "p2", "p@3/x", "p", "3", "x", "p4", "https://hooks.example/p5", "77", "/wJalr/K7MDENG", "a://b"}
    expected |= {"p 6", "p7", "webhook-p8"}
    assert {*secret_values(configuration)} == expected


def test_long_lines_take_no_time() -> None:
    """With unbounded repeats, each of these texts took from five seconds to minutes."""
    hide = Redactor(["s3cr3t-value!"])
    for text in ("token" * 20_000, "a.b+c-" * 30_000, "secret_key." * 5_000):
        assert hide(text) == text
    assert hide("token=" + "x" * 100_000 + " s3cr3t-value!").endswith(" ****")
