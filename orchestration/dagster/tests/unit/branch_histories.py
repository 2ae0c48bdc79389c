"""Random histories of branches and publications, compared with a model. For catalogs of each type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import pytest
from hypothesis import strategies as st
from lakehouse_analytics.branches.catalog import BranchCatalog, BranchError, ConflictError, Name

#: What is done, with the number of a branch and of a table.
Action = tuple[str, int, int]
Tables = dict[Name, tuple[int, ...]]


class Lake(Protocol):
    """A catalog whose tables have a column `id`."""

    @property
    def branches(self) -> BranchCatalog: ...

    def ids(self, name: Name) -> list[int]: ...

    def append(self, name: Name, *ids: int) -> None: ...

    def rewrite(self, name: Name) -> None: ...


def actions(*, branches: int, most: int, rewrites: bool) -> st.SearchStrategy[list[Action]]:
    """Actions on some branches and two tables."""
    kinds = ["branch", "write", "write_main", "publish", "drop", "rollback", *(["rewrite"] if rewrites else [])]
    return st.lists(st.tuples(st.sampled_from(kinds), st.integers(0, branches - 1), st.integers(0, 1)), max_size=most)


def agrees_with_the_model(
    lake: Lake, main: Mapping[Name, tuple[int, ...]], actions: Sequence[Action], *, rollback_restores_state: bool
) -> None:
    """What is published is what the branch had, or nothing is.

    Args:
        lake: The catalog.
        main: Its tables, and their ids.
        actions: What is done.
        rollback_restores_state: Whether branches from before a publication can be published after its rollback.
    """
    model = _Model(lake, dict(main), rollback_restores_state=rollback_restores_state)
    for number, (action, which, table) in enumerate(actions):
        branch, name = f"b{which}", [*main][table]
        if action == "branch" and branch not in model.on_branch:
            lake.branches.create(branch, dict.fromkeys(main, True))
            model.on_branch[branch], model.base[branch] = dict(model.main), dict(model.states)
        elif action == "write" and branch in model.on_branch:
            lake.append(name.on(branch), 1000 + number)
            model.on_branch[branch][name] += (1000 + number,)
        elif action == "write_main":
            lake.append(name, 1000 + number)
            model.main[name] += (1000 + number,)
            model.change([name])
        elif action == "rewrite":
            lake.rewrite(name)
            model.change([name])
        elif action == "publish" and branch in model.on_branch:
            model.publish(branch, f"p{number}")
            model.drop(branch)
        elif action == "drop" and branch in model.on_branch:
            model.drop(branch)
        elif action == "rollback" and model.publications:
            model.rollback()
        assert {one: tuple(lake.ids(one)) for one in main} == model.main
        for other, expected in model.on_branch.items():
            assert {one: tuple(lake.ids(one.on(other))) for one in main} == expected


def publish_at_once(lake: Lake, main: Mapping[Name, tuple[int, ...]], *, branches: int) -> None:
    """Publish several branches of the same tables at once: one wins, and nothing of the others is published."""
    for number in range(branches):
        lake.branches.create(f"b{number}", dict.fromkeys(main, True))
        for name in main:
            lake.append(name.on(f"b{number}"), 100 + number)

    def is_published(number: int) -> bool:
        try:
            lake.branches.publish(f"b{number}", [*main], f"b{number}")
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(branches) as threads:
        published = [*threads.map(is_published, range(branches))]
    assert published.count(True) == 1
    expected = {name: [*ids, 100 + published.index(True)] for name, ids in main.items()}
    assert {name: lake.ids(name) for name in main} == expected


class _Model:
    def __init__(self, lake: Lake, main: Tables, *, rollback_restores_state: bool) -> None:
        self.lake, self.main, self.rollback_restores_state = lake, main, rollback_restores_state
        #: A number for each state of a table in the catalog. Several may have the same rows.
        self.states: dict[Name, int] = dict.fromkeys(main, 0)
        self.count = 0
        self.on_branch: dict[str, Tables] = {}
        self.base: dict[str, dict[Name, int]] = {}
        #: What each publication has replaced, with the states, and by what.
        self.publications: dict[str, tuple[Tables, dict[Name, int], Tables]] = {}

    def change(self, names: Iterable[Name]) -> None:
        self.count += 1
        self.states |= dict.fromkeys(names, self.count)

    def publish(self, branch: str, publication: str) -> None:
        built, tables = self.on_branch[branch], [*self.main]
        if self.base[branch] != self.states:
            with pytest.raises(ConflictError):
                self.lake.branches.publish(branch, tables, publication)
            return
        self.lake.branches.publish(branch, tables, publication)
        changed = [name for name in tables if built[name] != self.main[name]]
        self.publications[publication] = (
            {name: self.main[name] for name in changed},
            {name: self.states[name] for name in changed},
            {name: built[name] for name in changed},
        )
        self.main |= built
        self.change(changed)

    def drop(self, branch: str) -> None:
        self.lake.branches.drop(branch)
        del self.on_branch[branch], self.base[branch]

    def rollback(self) -> None:
        publication, (before, states, after) = self.publications.popitem()
        if before and all(self.main[name] == after[name] for name in after):
            self.lake.branches.rollback(publication)
            self.main |= before
            if self.rollback_restores_state:
                self.states |= states
            else:
                self.change(before)
        else:
            with pytest.raises(BranchError):
                self.lake.branches.rollback(publication)
