"""The list of connections is requested when it is needed, and not more often."""

from __future__ import annotations

from typing import cast

import pytest
from lakehouse_analytics.triggers.airbyte.client import Airbyte, AirbyteError
from lakehouse_analytics.triggers.airbyte.connections import Connection, SourceTable, UnknownConnectionError
from lakehouse_analytics.triggers.airbyte.snapshot import MAX_AGE, ConnectionCache, ConnectionSnapshot

SHOP, CRM, NEW, MISSING = "11111111-aaaa", "22222222-bbbb", "33333333-cccc", "44444444-dddd"
TABLE = SourceTable(("source", "orders"), "raw", "orders", "Shop")


class Server:
    """Stands in for the client, and for its clock."""

    def __init__(self) -> None:
        self.there = [Connection(SHOP, "Shop", tags=("finance",)), Connection(CRM, "CRM")]
        self.requests: list[float | None] = []
        self.down = False
        self.now = 50.0

    def connections(self, *, deadline: float | None = None) -> list[Connection]:
        self.requests.append(deadline)
        if self.down:
            raise AirbyteError("down")
        return [*self.there]

    def cache(self, *tables: SourceTable, **filters: tuple[str, ...]) -> ConnectionCache:
        return ConnectionCache(cast("Airbyte", self), tables, **filters, clock=lambda: self.now)


@pytest.fixture
def server() -> Server:
    return Server()


def test_it_asks_once(server: Server) -> None:
    cache = server.cache(TABLE)
    assert not server.requests  # creating the cache sends no request
    known = cache.snapshot(deadline=7.0)
    assert cache.snapshot({SHOP, CRM}) is known
    assert server.requests == [7.0]
    assert [table.table for table in known.mapping.tables_by_connection[SHOP]] == ["orders"]
    assert (known.name(SHOP), known.name(MISSING)) == ("Shop", MISSING)


def test_it_asks_again_when_it_is_old(server: Server) -> None:
    cache = server.cache()
    cache.snapshot()
    server.now += MAX_AGE
    cache.snapshot()
    assert len(server.requests) == 1
    server.now += 1
    server.there.append(Connection(NEW, "New"))
    assert NEW in cache.snapshot().connections
    assert len(server.requests) == 2
    server.now += MAX_AGE
    cache.snapshot()
    assert len(server.requests) == 2


def test_it_asks_once_for_one_that_is_new(server: Server) -> None:
    cache = server.cache()
    cache.snapshot()
    server.there.append(Connection(NEW, "New"))
    assert NEW in cache.snapshot({SHOP, NEW}).connections
    cache.snapshot({NEW})
    assert len(server.requests) == 2


def test_it_does_not_ask_again_for_one_that_is_not_there(server: Server) -> None:
    cache = server.cache()
    for _ in range(3):
        assert MISSING not in cache.snapshot({MISSING}).connections
    assert len(server.requests) == 1  # the first answer was fresh
    for _ in range(3):
        cache.snapshot({NEW})
    assert len(server.requests) == 2
    cache.snapshot({MISSING, NEW, SHOP})
    assert len(server.requests) == 2


def test_it_asks_again_for_one_that_was_not_there_when_all_is_old(server: Server) -> None:
    cache = server.cache()
    cache.snapshot({MISSING})
    server.now += MAX_AGE + 1
    server.there.append(Connection(MISSING, "Found"))
    assert cache.snapshot({MISSING}).name(MISSING) == "Found"
    assert len(server.requests) == 2


def test_what_could_not_be_asked_is_asked_the_next_time(server: Server) -> None:
    cache = server.cache()
    server.down = True
    for _ in range(2):
        with pytest.raises(AirbyteError):
            cache.snapshot({MISSING})
    server.down = False
    known = cache.snapshot()
    server.down = True
    with pytest.raises(AirbyteError):
        cache.snapshot({NEW})
    assert cache.snapshot({SHOP}) is known  # what it knows it still knows
    server.now += MAX_AGE + 1
    with pytest.raises(AirbyteError):
        cache.snapshot()  # the old list is not passed off as new
    server.down = False
    assert cache.snapshot() is not known


def test_what_a_filter_leaves_out_is_known_and_fills_nothing(server: Server) -> None:
    known = server.cache(TABLE, exclude=("tag:finance",)).snapshot()
    assert {*known.connections} == {SHOP, CRM}
    assert known.ignored == {SHOP}
    assert not known.mapping.tables_by_connection
    assert "leaves out" in known.mapping.problems[0]
    assert server.cache(TABLE, include=("Shop",)).snapshot().ignored == {CRM}


def of(*connections: Connection) -> ConnectionSnapshot:
    server = Server()
    server.there = [*connections]
    return server.cache().snapshot()


@pytest.mark.parametrize("said", [SHOP, SHOP.upper(), "Shop"])
def test_which_connection_is_meant(said: str) -> None:
    assert of(Connection(SHOP, "Shop"), Connection(CRM, "CRM")).find(said).id == SHOP


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("Shpo", "no connection with the id or name 'Shpo'; did you mean 'Shop'?"),
        ("nothing like it", "no connection with the id or name 'nothing like it'"),
        ("Twin", f"'Twin' is the name of several connections: use the id of one of them ({CRM}, {NEW})"),
    ],
)
def test_who_is_not_known_is_told(said: str, words: str) -> None:
    known = of(Connection(SHOP, "Shop"), Connection(NEW, "Twin"), Connection(CRM, "Twin"))
    with pytest.raises(UnknownConnectionError) as caught:
        known.find(said)
    assert str(caught.value).endswith(words)
