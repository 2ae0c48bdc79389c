"""What is known of the connections: asked for when it must be, and not more often."""

from __future__ import annotations

from typing import cast

import pytest
from lakehouse_analytics.triggers.airbyte.client import Airbyte, AirbyteError
from lakehouse_analytics.triggers.airbyte.connections import Connection, SourceTable, UnknownConnectionError
from lakehouse_analytics.triggers.airbyte.inventory import LIFE, Inventory, Known

SHOP, CRM, NEW, MISSING = "11111111-aaaa", "22222222-bbbb", "33333333-cccc", "44444444-dddd"
TABLE = SourceTable(("source", "orders"), "raw", "orders", "Shop")


class Server:
    """Stands in for the client, and for its clock."""

    def __init__(self) -> None:
        self.there = [Connection(SHOP, "Shop", tags=("finance",)), Connection(CRM, "CRM")]
        self.asked: list[float | None] = []
        self.down = False
        self.now = 50.0

    def connections(self, *, deadline: float | None = None) -> list[Connection]:
        self.asked.append(deadline)
        if self.down:
            raise AirbyteError("down")
        return [*self.there]

    def inventory(self, *tables: SourceTable, **filters: tuple[str, ...]) -> Inventory:
        return Inventory(cast("Airbyte", self), tables, **filters, clock=lambda: self.now)


@pytest.fixture
def server() -> Server:
    return Server()


def test_it_asks_once(server: Server) -> None:
    inventory = server.inventory(TABLE)
    assert not server.asked  # to be made costs nothing
    known = inventory.known(deadline=7.0)
    assert inventory.known({SHOP, CRM}) is known
    assert server.asked == [7.0]
    assert [table.table for table in known.fills.tables[SHOP]] == ["orders"]
    assert (known.name(SHOP), known.name(MISSING)) == ("Shop", MISSING)


def test_it_asks_again_when_it_is_old(server: Server) -> None:
    inventory = server.inventory()
    inventory.known()
    server.now += LIFE
    inventory.known()
    assert len(server.asked) == 1
    server.now += 1
    server.there.append(Connection(NEW, "New"))
    assert NEW in inventory.known().connections
    assert len(server.asked) == 2
    server.now += LIFE
    inventory.known()
    assert len(server.asked) == 2


def test_it_asks_once_for_one_that_is_new(server: Server) -> None:
    inventory = server.inventory()
    inventory.known()
    server.there.append(Connection(NEW, "New"))
    assert NEW in inventory.known({SHOP, NEW}).connections
    inventory.known({NEW})
    assert len(server.asked) == 2


def test_it_does_not_ask_again_for_one_that_is_not_there(server: Server) -> None:
    inventory = server.inventory()
    for _ in range(3):
        assert MISSING not in inventory.known({MISSING}).connections
    assert len(server.asked) == 1  # the first answer was fresh
    for _ in range(3):
        inventory.known({NEW})
    assert len(server.asked) == 2
    inventory.known({MISSING, NEW, SHOP})
    assert len(server.asked) == 2


def test_it_asks_again_for_one_that_was_not_there_when_all_is_old(server: Server) -> None:
    inventory = server.inventory()
    inventory.known({MISSING})
    server.now += LIFE + 1
    server.there.append(Connection(MISSING, "Found"))
    assert inventory.known({MISSING}).name(MISSING) == "Found"
    assert len(server.asked) == 2


def test_what_could_not_be_asked_is_asked_the_next_time(server: Server) -> None:
    inventory = server.inventory()
    server.down = True
    for _ in range(2):
        with pytest.raises(AirbyteError):
            inventory.known({MISSING})
    server.down = False
    known = inventory.known()
    server.down = True
    with pytest.raises(AirbyteError):
        inventory.known({NEW})
    assert inventory.known({SHOP}) is known  # what it knows it still knows
    server.now += LIFE + 1
    with pytest.raises(AirbyteError):
        inventory.known()  # old is not told as new
    server.down = False
    assert inventory.known() is not known


def test_what_a_filter_leaves_out_is_known_and_fills_nothing(server: Server) -> None:
    known = server.inventory(TABLE, exclude=("tag:finance",)).known()
    assert {*known.connections} == {SHOP, CRM}
    assert known.ignored == {SHOP}
    assert not known.fills.tables
    assert "leaves out" in known.fills.problems[0]
    assert server.inventory(TABLE, include=("Shop",)).known().ignored == {CRM}


def of(*connections: Connection) -> Known:
    server = Server()
    server.there = [*connections]
    return server.inventory().known()


@pytest.mark.parametrize("said", [SHOP, SHOP.upper(), "Shop"])
def test_which_connection_is_meant(said: str) -> None:
    assert of(Connection(SHOP, "Shop"), Connection(CRM, "CRM")).meant(said).id == SHOP


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("Shpo", "no connection of the id or name 'Shpo'; did you mean 'Shop'?"),
        ("nothing like it", "no connection of the id or name 'nothing like it'"),
        ("Twin", f"'Twin' is the name of several connections: use the id of one of them ({CRM}, {NEW})"),
    ],
)
def test_who_is_not_known_is_told(said: str, words: str) -> None:
    known = of(Connection(SHOP, "Shop"), Connection(NEW, "Twin"), Connection(CRM, "Twin"))
    with pytest.raises(UnknownConnectionError) as caught:
        known.meant(said)
    assert str(caught.value).endswith(words)
