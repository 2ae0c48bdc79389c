"""Fingerprints of expressions: equal if they mean the same, whatever CTEs and aliases are called."""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import exp

from lakehouse_analytics.common.text import digest

#: The expressions that have a lineage of their own.
QUERIES = (exp.Select, exp.SetOperation)
#: Key of an expression's metadata with the fingerprint of a column or a subquery.
MARK = "lakehouse"
#: Key of the metadata of columns that the statement names, other than those that sqlglot makes of a `*`.
WRITTEN = "lakehouse_written"


def marked(node: exp.Expr, dialect: str) -> str:
    """Return the SQL of an expression with fingerprints for its columns and subqueries."""

    def replace(part: exp.Expr) -> exp.Expr:
        mark = part.meta.get(MARK)
        return exp.Var(this=mark) if mark else part

    return node.transform(replace).sql(dialect, comments=False)


def conditions(node: exp.Expr, dialect: str) -> str:
    """Return the fingerprint of a condition, in which the order of what AND connects does not count."""
    parts = node.flatten() if isinstance(node, exp.And) else [node]
    return digest(*sorted(marked(part, dialect) for part in parts))


def row_clauses(node: exp.Expr) -> Iterator[exp.Expr]:
    """Yield the clauses that decide which rows a query returns."""
    order = ("order",) if chooses_by_order(node) else ()
    for name in ("where", "group", "having", "qualify", "limit", "offset", *order):
        if clause := node.args.get(name):
            yield clause
    if on := distinct_on(node):
        yield on


def chooses_by_order(node: exp.Expr) -> bool:
    """Return whether the order of a query decides which rows it returns."""
    return any(node.args.get(name) for name in ("limit", "offset")) or distinct_on(node) is not None


def distinct_on(node: exp.Expr) -> exp.Expr | None:
    """Return the expressions of DISTINCT ON."""
    distinct = node.args.get("distinct")
    return distinct.args.get("on") if isinstance(distinct, exp.Distinct) else None


def join_kind(item: exp.Expr) -> str:
    """Return the kind of a join; an empty string for the first table."""
    words = (item.args.get("method"), item.args.get("side"), item.args.get("kind"))
    return f"{' '.join(str(word).lower() for word in words if word)} join " if isinstance(item, exp.Join) else ""


def aggregates(projection: exp.Expr) -> bool:
    """Return whether an expression aggregates all rows, other than over a window."""
    return any(
        not isinstance(found.find_ancestor(exp.Window, *QUERIES), exp.Window)
        for found in projection.find_all(exp.AggFunc)
    )
