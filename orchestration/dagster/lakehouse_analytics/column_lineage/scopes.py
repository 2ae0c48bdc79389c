"""The lineage of a qualified statement, from the innermost query outwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from sqlglot import exp
from sqlglot.optimizer.scope import Scope

from lakehouse_analytics.column_lineage.fingerprints import (
    MARK,
    QUERIES,
    WRITTEN,
    aggregates,
    chooses_by_order,
    conditions,
    distinct_on,
    join_kind,
    marked,
    row_clauses,
)
from lakehouse_analytics.column_lineage.query import Output, Query, Ref, Table, left_out_of
from lakehouse_analytics.common.text import digest


class Scopes:
    """Finds the lineage of each query of a statement."""

    def __init__(self, root: Scope, dialect: str, tables: Mapping[str, Table]) -> None:
        """
        Args:
            root: The scope of the statement.
            dialect: sqlglot's name of the dialect.
            tables: The tables by their name in the statement.
        """
        self._root, self._dialect, self._tables = root, dialect, tables
        self._found: dict[int, Query] = {}
        #: The columns that each query has defined so far, by the id of its expression.
        self._aliases: dict[int, dict[str, Output]] = {}
        self._named: set[Ref] = set()

    def query(self) -> Query:
        """Return the lineage of the statement."""
        for scope in self._root.traverse():
            self._found[id(scope.expression)] = self._lineage(scope)
        return replace(self._found[id(self._root.expression)], named=frozenset(self._named))

    def _lineage(self, scope: Scope) -> Query:
        if isinstance(scope.expression, exp.Select):
            return self._select(scope, scope.expression)
        if isinstance(scope.expression, exp.SetOperation):
            return self._set_operation(scope, scope.expression)
        if isinstance(scope.expression, exp.Subquery):
            return self._found.get(id(scope.expression.unnest()), Query())
        return self._table_function(scope)

    def _table_function(self, scope: Scope) -> Query:
        """Return the lineage of VALUES, UNNEST and other functions: each column may be made of all that they read."""
        node = scope.expression
        reads, inputs = self._reads(node, scope)
        mark = digest(marked(node, self._dialect))
        alias = node.args.get("alias")
        names = [column.name for column in (alias.args.get("columns") or ())] if alias else []
        outputs = [Output(name, reads, False, name, f"{mark}#{i}") for i, name in enumerate(names)]
        return Query(tuple(outputs), reads, inputs, mark)

    def _set_operation(self, scope: Scope, node: exp.SetOperation) -> Query:
        sides = [self._found.get(id(side.expression), Query()) for side in scope.set_operation_scopes]
        width = min((len(side.outputs) for side in sides), default=0)
        kind = f"{node.key} {'distinct' if node.args.get('distinct') else 'all'}"
        outputs = []
        for i in range(width):
            parts = [side.outputs[i] for side in sides]
            same = len({part.fingerprint for part in parts}) == 1
            mark = parts[0].fingerprint if same else digest("union", *(part.fingerprint for part in parts))
            outputs.append(
                Output(
                    parts[0].name,
                    frozenset().union(*(part.reads for part in parts)),
                    all(part.direct for part in parts),
                    _joined_text(part.expression for part in parts),
                    mark,
                    parts[0].type if len({part.type for part in parts}) == 1 else "",
                )
            )
        filters = frozenset[Ref]().union(*(side.filters for side in sides))
        if kind != "union all":  # rows are compared
            filters = filters.union(*(output.reads for output in outputs))
            kind = digest(kind, *(output.fingerprint for output in outputs))
        return Query(
            tuple(outputs),
            filters,
            frozenset().union(*(side.inputs for side in sides)),
            digest(kind, *(side.row_fingerprint for side in sides), *self._clauses(node, scope, ("limit", "offset"))),
            frozenset().union(*(side.open for side in sides)),
            left_out=left_out_of(sides),
        )

    def _select(self, scope: Scope, node: exp.Select) -> Query:
        outputs: list[Output] = []
        stars: list[Query] = []
        inputs: set[str] = set()
        aliases = self._aliases.setdefault(id(node), {})
        for projection in node.selects:
            if projection.is_star:
                for name in _star_sources(projection, scope):
                    passed = self._columns_of(scope.sources[name])
                    left_out = _left_out(projection)
                    outputs += [output for output in passed.outputs if output.name not in left_out]
                    refs = {Ref(table, column) for table in passed.open for column in left_out}
                    stars.append(replace(passed, left_out=passed.left_out | refs))
            else:
                output, more = self._output(projection, scope)
                outputs.append(output)
                aliases.setdefault(output.name, output)
                inputs |= more
        filters, sources, rows = self._rows(scope, node, outputs)
        unknown = frozenset[str]().union(*(star.open for star in stars))
        return Query(tuple(outputs), filters, frozenset(inputs | sources), rows, unknown, left_out=left_out_of(stars))

    def _output(self, projection: exp.Expr, scope: Scope) -> tuple[Output, frozenset[str]]:
        value = projection.unalias().unnest()
        reads, inputs = self._reads(value, scope)
        kind = projection.type
        name = projection.alias_or_name
        known = "" if kind is None or kind.this == exp.DType.UNKNOWN else kind.sql(self._dialect)
        if isinstance(value, exp.Column):
            source = self._column(value, scope)
            return Output(
                name, reads, source.direct, source.expression, source.fingerprint, known or source.type
            ), inputs
        mark = digest(marked(value, self._dialect))
        return Output(name, reads, False, value.sql(self._dialect, comments=False), mark, known), inputs

    def _rows(self, scope: Scope, node: exp.Select, outputs: list[Output]) -> tuple[frozenset[Ref], set[str], str]:
        """Return the columns that decide which rows there are, the tables of the rows, and the fingerprint."""
        filters: set[Ref] = set()
        inputs: set[str] = set()
        parts: list[str] = []
        source_clause = node.args.get("from_") or node.args.get("from")
        joins = node.args.get("joins") or ()
        for item in (*([source_clause] if source_clause else ()), *joins, *(node.args.get("laterals") or ())):
            source = self._source(item, scope)
            parts.append(f"{join_kind(item)}{source.row_fingerprint}")
            filters |= source.filters
            inputs |= source.inputs
            for condition in (item.args.get("on"), item.args.get("match_condition")):
                if condition is not None:
                    self._add(condition, scope, filters, inputs)
                    parts.append(conditions(condition, self._dialect))
            for name in item.args.get("using") or ():
                parts.append(f"using {name.name}")
                filters |= {ref for at in scope.sources.values() for ref in self._reads_of(at, name.name)}
        plain = len(parts) == 1
        by_number = {str(i): output for i, output in enumerate(outputs, 1)}
        for item in (node.args.get("group") or exp.Group()).expressions:
            if item.is_int and item.name in by_number:  # not expanded by sqlglot
                filters |= by_number[item.name].reads
                item.meta[MARK] = by_number[item.name].fingerprint
        for clause in row_clauses(node):
            self._add(clause, scope, filters, inputs)
        extra = self._clauses(node, scope, ("where", "group", "having", "qualify", "limit", "offset"))
        order = self._clauses(node, scope, ("order",))
        extra += order if chooses_by_order(node) else []
        if node.args.get("distinct"):
            on = distinct_on(node)
            values = (
                sorted(output.fingerprint for output in outputs) if on is None else ["on", marked(on, self._dialect)]
            )
            filters |= frozenset[Ref]() if on else {ref for output in outputs for ref in output.reads}
            extra.append(digest("distinct", *values))
        for projection in node.selects:
            if projection.find(exp.Unnest, exp.Explode):
                extra.append(digest(marked(projection.unalias(), self._dialect)))
            if not node.args.get("group") and aggregates(projection):
                extra.append("one row")
        same = plain and not extra
        return frozenset(filters), inputs, parts[0] if same else digest("rows", *parts, *sorted(set(extra)))

    def _clauses(self, node: exp.Expr, scope: Scope, names: Iterable[str]) -> list[str]:
        found = []
        for name in names:
            if clause := node.args.get(name):
                self._reads(clause, scope)
                inner = clause.this if name in ("where", "having", "qualify") else clause
                found.append(f"{name} {conditions(inner, self._dialect)}")
        return found

    def _add(self, node: exp.Expr, scope: Scope, filters: set[Ref], inputs: set[str]) -> None:
        reads, more = self._reads(node, scope)
        filters |= reads
        inputs |= more

    def _source(self, item: exp.Expr, scope: Scope) -> Query:
        """Return the lineage of one item of FROM or a join."""
        this = item if isinstance(item, exp.Lateral) else item.this
        source = scope.sources.get(this.alias_or_name)
        if isinstance(source, Scope):
            return self._found.get(id(source.expression), Query())
        if isinstance(source, exp.Table) and source.name in self._tables:
            name = self._tables[source.name].name
            return Query(inputs=frozenset({name}), row_fingerprint=name)
        reads, inputs = self._reads(this, scope)
        return Query(filters=reads, inputs=inputs, row_fingerprint=digest(marked(this, self._dialect)))

    def _columns_of(self, source: Any) -> Query:
        """Return the known columns of a table or subquery, and the tables that others may come from."""
        if isinstance(source, Scope):
            return self._found.get(id(source.expression), Query())
        table = self._tables.get(source.name)
        if table is None:
            return Query()
        outputs = [_passed(table.name, name, kind) for name, kind in table.columns.items()]
        return Query(tuple(outputs), open=frozenset() if table.complete else frozenset({table.name}))

    def _reads(self, node: exp.Expr, scope: Scope) -> tuple[frozenset[Ref], frozenset[str]]:
        """Return the columns that an expression reads, and the tables of its subqueries; mark both for `_marked`."""
        reads: set[Ref] = set()
        inputs: set[str] = set()
        for part in node.walk(prune=lambda n: isinstance(n, QUERIES)):
            if isinstance(part, QUERIES):
                query = self._found.get(id(part), Query())
                reads |= query.reads
                inputs |= query.inputs
                part.meta[MARK] = digest(query.row_fingerprint, *(output.fingerprint for output in query.outputs))
            elif isinstance(part, exp.Column) and not part.is_star:
                column = self._column(part, scope)
                reads |= column.reads
                if part.meta.get(WRITTEN):
                    self._named |= column.reads
                part.meta[MARK] = column.fingerprint
        return frozenset(reads), frozenset(inputs)

    def _column(self, column: exp.Column, scope: Scope) -> Output:
        """Return the lineage of a column that an expression reads."""
        name = column.name
        at: Scope | None = scope
        if not column.table:
            alias = self._aliases.get(id(scope.expression), {}).get(name)
            return alias if alias and _orders_result(column, scope) else self._unqualified(name, scope)
        while at is not None:
            if column.table in at.sources:
                return self._column_of(at.sources[column.table], name) or Output(name, frozenset(), True, name, name)
            at = at.parent
        return Output(name, frozenset(), False, column.sql(self._dialect), f"?{column.table}.{name}")

    def _column_of(self, source: Any, name: str) -> Output | None:
        if isinstance(source, Scope):
            query = self._found.get(id(source.expression), Query())
            if found := query.by_name.get(name):
                return found
            reads = frozenset(Ref(table, name) for table in (query.open or query.inputs))
            mark = "|".join(sorted(f"{ref.relation}.{name}" for ref in reads))
            return Output(name, reads, True, name, mark) if reads else None
        table = self._tables.get(source.name)
        return _passed(table.name, name, table.columns.get(name, "")) if table else None

    def _reads_of(self, source: Any, name: str) -> frozenset[Ref]:
        column = self._column_of(source, name)
        return column.reads if column else frozenset()

    def _unqualified(self, name: str, scope: Scope) -> Output:
        """Return the lineage of a column that sqlglot could not assign to one table: it may be of each."""
        sources = [source for _, source in scope.selected_sources.values()]
        sources = sources or [*(scope.parent.sources.values() if scope.parent else ())]
        sure = [found for source in sources for found in self._columns_of(source).outputs if found.name == name]
        if len(sure) == 1:
            return sure[0]
        if alias := self._aliases.get(id(scope.expression), {}).get(name):
            return alias
        all_ = [found for source in sources if (found := self._column_of(source, name))]
        reads = frozenset[Ref]().union(*(found.reads for found in all_))
        return Output(name, reads, len(all_) == 1, name, "|".join(sorted(found.fingerprint for found in all_)) or name)


def _passed(table: str, name: str, kind: str) -> Output:
    return Output(name, frozenset({Ref(table, name)}), True, name, f"{table}.{name}", kind)


def _joined_text(texts: Iterable[str]) -> str:
    return " | ".join(dict.fromkeys(texts))


def _star_sources(projection: exp.Expr, scope: Scope) -> list[str]:
    table = projection.table if isinstance(projection, exp.Column) else ""
    return [name for name in scope.selected_sources if not table or name == table]


def _orders_result(column: exp.Column, scope: Scope) -> bool:
    """Return whether a column is in the ORDER BY of a query, where a name is one of the result's columns first."""
    order = column.find_ancestor(exp.Order, exp.Window, exp.Select)
    return order is not None and order.parent is scope.expression


def _left_out(projection: exp.Expr) -> set[str]:
    """Return the columns that a `*` excludes or gives another name."""
    args = (projection.find(exp.Star) or exp.Star()).args
    return {item.name for item in args.get("except_") or ()} | {item.this.name for item in args.get("rename") or ()}
