"""Versions of files, and the fingerprint of a listing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st
from lakehouse_analytics.arrivals.files.versions import FileVersion, fingerprint


def version(path: str, tag: str) -> FileVersion:
    return FileVersion(path, tag, 1, datetime(2026, 1, 1, tzinfo=UTC))


FILES = st.dictionaries(st.text("ab/", min_size=1, max_size=4), st.text("12", min_size=1, max_size=3), max_size=8)


@given(before=FILES, after=FILES, seed=st.randoms())
def test_the_fingerprint_changes_exactly_when_a_version_does(
    before: dict[str, str], after: dict[str, str], seed: random.Random
) -> None:
    def of(files: dict[str, str]) -> tuple[str, int]:
        listing: Sequence[FileVersion] = [version(path, tag) for path, tag in files.items()]
        return fingerprint(iter(seed.sample(listing, len(listing))))

    assert (of(before) == of(after)) is (before == after)
    assert of(before)[1] == len(before)
    assert len(of(after)[0]) == 32
