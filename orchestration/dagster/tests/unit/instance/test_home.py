"""What is wrong with DAGSTER_HOME is said, and not something else."""

from __future__ import annotations

from pathlib import Path

import pytest
from lakehouse_analytics.instance import home
from lakehouse_analytics.instance.home import HomeError, open_home


def test_an_image_has_no_configuration_of_an_instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setattr(home, "TEMPLATE", tmp_path / "python" / "dagster.yaml")  # the package is not in a checkout
    with pytest.raises(HomeError) as caught:
        open_home()
    assert str(caught.value) == (
        f"DAGSTER_HOME {tmp_path} has no dagster.yaml, and only a checkout of this project has one to copy: put the "
        "dagster.yaml of your instance there."
    )


def test_a_home_of_nobody_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "~no-such-user/home")
    with pytest.raises(HomeError, match=r"^DAGSTER_HOME is '~no-such-user/home': no such user's home; set it to a fol"):
        open_home()


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(HomeError, match=r"file/home is not writable \(Not a directory\): set it to a folder that is\."):
        open_home()


def test_pools_are_limited_before_their_first_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    for limit in (1, 4):
        with open_home() as instance:
            limits = {one.name: one.limit for one in instance.event_log_storage.get_pool_limits()}
            assert limits == {"duckdb": 1, "exports": limit}
            # One that someone has set stays, except for an engine with a single writer.
            instance.event_log_storage.set_concurrency_slots("exports", 4)
            instance.event_log_storage.set_concurrency_slots("duckdb", 4)
