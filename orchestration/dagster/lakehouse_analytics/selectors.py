"""dbt selectors for many nodes: whole folders where everything in them is wanted.

dbt compares every selector with every node: naming 400 models and their 1,200 tests one by one takes 33 seconds
before anything is built, naming their folder takes none. Pure: no Dagster, no dbt.

`fqn:a.b` selects every node whose fully qualified name starts with `a.b`
(https://docs.getdbt.com/reference/node-selection/methods#fqn).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

Fqn = tuple[str, ...]


@dataclass
class _Folder:
    path: Fqn

    children: dict[str, _Folder] = field(default_factory=dict)
    wanted: int = 0
    unwanted: int = 0


def select_args(wanted: Collection[Fqn], everything: Iterable[Fqn]) -> list[str]:
    """`--select` and `--exclude` for exactly these nodes, in few words.

    Args:
        wanted: Fully qualified names to select; at least one.
        everything: Those of every node that dbt could select, the wanted among them.
    """
    names = set(wanted)
    every = {*everything, *names}
    root = _tree(names, every)
    # From the folders of a package on: a name of one part would be any node's of that name.
    said = [_select(child) for package in root.children.values() for child in package.children.values()]
    selected = [fqn for select, _ in said for fqn in select]
    excluded = [fqn for _, exclude in said for fqn in exclude]
    # dbt compares a name without its package, too: the folder `shop` of one package hides the package `shop`.
    packages = {fqn[0] for fqn in every}
    ambiguous = any(len(fqn) > 1 and fqn[1] in packages for fqn in every)

    def selector(path: Fqn) -> str:
        said = "fqn:" + ".".join(map(_without_specials, path))
        if any(map(_SPECIAL.search, path)) and path not in every:
            said += ".*"  # a name with a wildcard must match the rest as well
        return f"{said},package:{path[0]}" if ambiguous else said

    return ["--select", *map(selector, selected), *(["--exclude", *map(selector, excluded)] if excluded else [])]


#: dbt splits selectors at blanks and commas; brackets and stars it takes for wildcards.
_SPECIAL = re.compile(r"[\s,*?\[\]]")


def _without_specials(part: str) -> str:
    """A part of a name in which `?` stands for each character that dbt's selectors cannot say."""
    return _SPECIAL.sub("?", part)


def _tree(wanted: Collection[Fqn], everything: Iterable[Fqn]) -> _Folder:
    root = _Folder(())
    for fqn in sorted(everything):
        folder = root
        for place, part in enumerate(fqn, 1):
            folder = folder.children.setdefault(part, _Folder(fqn[:place]))
            folder.wanted += fqn in wanted
            folder.unwanted += fqn not in wanted

    return root


def _own(folder: _Folder) -> tuple[int, int]:
    """Of the node that has the folder's very name: whether it is wanted, and unwanted."""
    below = folder.children.values()
    return folder.wanted - sum(c.wanted for c in below), folder.unwanted - sum(c.unwanted for c in below)


def _select(folder: _Folder) -> tuple[tuple[Fqn, ...], tuple[Fqn, ...]]:
    """The shorter of: this folder without what is not wanted, or what is wanted by its own names."""
    if not folder.wanted:
        return (), ()
    excluded = _exclude(folder)
    whole = None if excluded is None else ((folder.path,), excluded)
    if _own(folder)[0] and folder.children:
        # A node and a folder of one name: the node cannot be selected without the folder.
        return whole or ((folder.path,), ())
    parts = [_select(child) for child in folder.children.values()]
    apart = (tuple(f for s, _ in parts for f in s), tuple(f for _, e in parts for f in e))
    if not folder.children:
        return (folder.path,), ()
    return whole if whole and 1 + len(whole[1]) < len(apart[0]) + len(apart[1]) else apart


def _exclude(folder: _Folder) -> tuple[Fqn, ...] | None:
    """Names that take away exactly what is not wanted below a folder; None where there are none such."""
    if not folder.unwanted:
        return ()
    if not folder.wanted:
        return (folder.path,)
    if _own(folder)[1]:
        return None  # a node of the folder's own name: excluding it would exclude the folder
    parts = [_exclude(child) for child in folder.children.values()]
    return None if any(part is None for part in parts) else tuple(f for part in parts for f in part or ())
