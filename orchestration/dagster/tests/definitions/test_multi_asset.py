"""Assets and checks of any name in one op: they load, run and stay apart."""

import dagster as dg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lakehouse_analytics.assets.multi_asset import multi_asset, multi_asset_check
from lakehouse_analytics.common.names import check_name, key_part

Tables = dict[tuple[str, ...], list[str]]
PARTS = st.one_of(
    st.sampled_from(
        ["orders", "orders.daily", "orders_daily", "orders-daily", "row_count", "type", "config", "dbt", "a"]
    ),
    st.text(min_size=1, max_size=4).map(key_part),
)
KEYS = st.lists(PARTS, min_size=1, max_size=3).map(tuple)
CHECKS = st.lists(st.sampled_from(["row_count", "daily", "b_c", "unique_ü"]).map(check_name), unique=True, max_size=3)
TABLES = st.dictionaries(KEYS, CHECKS, min_size=1, max_size=5)
CLASHES: list[tuple[Tables, list[tuple[str, ...]]]] = [
    ({("bronze", "orders"): ["row_count"], ("bronze", "orders_row_count"): []}, []),
    ({("bronze", "orders.daily"): ["row_count"], ("bronze", "orders_daily"): ["row_count"]}, []),
    ({("a",): ["b_c"], ("a", "b"): ["c"], ("a_b",): ["c"]}, [("x", "y_z"), ("x_y", "z")]),
    ({("config",): [], ("type",): ["row_count"]}, [("engine",), ("context",)]),
    ({("gold", "kündigungen"): ["row_count"], ("gold", "注文"): []}, [("crm", "größe.eu"), ("crm", "größe_eu")]),
]


@settings(max_examples=50)
@given(TABLES, st.lists(KEYS, max_size=3, unique=True))
@example(*CLASHES[0])
@example(*CLASHES[1])
@example(*CLASHES[2])
def test_any_assets_load_with_the_keys_checks_and_lineage_they_were_given(
    tables: Tables, above: list[tuple[str, ...]]
) -> None:
    build, _ = built(tables, above)
    keys = [dg.AssetKey(key) for key in tables]
    sources = [dg.AssetKey(key) for key in above if key not in tables]
    lineage = {spec.key: {dep.asset_key for dep in spec.deps} for spec in build.specs}
    assert lineage == {key: {*sources, *keys[:place]} for place, key in enumerate(keys)}
    assert {check.key for check in build.check_specs} == {
        dg.AssetCheckKey(dg.AssetKey(key), name) for key, names in tables.items() for name in names
    }
    # Each input and output of the op stands for one key.
    assert {*sources} <= {*build.node_keys_by_input_name.values()}
    assert len(build.node_keys_by_output_name) == len(tables)


def test_the_keys_of_an_op_are_put_together_once_also_of_a_part_of_it() -> None:
    """Dagster asks for them for each output and for each input."""
    build, _ = built({("gold", "a"): ["row_count"], ("gold", "b"): ["row_count"]}, [])
    part = build.subset_for({dg.AssetKey(["gold", "a"])}, set())
    for assets, count in ((build, 4), (part, 1)):
        assert assets.asset_and_check_keys == {*assets.keys, *assets.check_keys}
        assert len(assets.asset_and_check_keys) == count
        assert assets.asset_and_check_keys is assets.asset_and_check_keys
        names = assets.input_names_by_node_key
        assert {name: key for key, name in names.items()} == assets.node_keys_by_input_name
        assert names is assets.input_names_by_node_key


@pytest.mark.parametrize(("tables", "above"), CLASHES)
def test_assets_with_names_that_clash_in_dagsters_ops_run_together_and_alone(
    tables: Tables, above: list[tuple[str, ...]]
) -> None:
    build, sources = built(tables, above)
    keys = [dg.AssetKey(key) for key in tables]
    for selection in (keys, keys[-1:]):
        ran = dg.materialize([build, *sources], selection=dg.AssetSelection.assets(*selection))
        assert {event.asset_key for event in ran.get_asset_materialization_events()} == {*selection}
        assert len(ran.get_asset_check_evaluations()) == sum(len(tables[tuple(key.path)]) for key in selection)


def test_checks_of_assets_of_any_name_load_and_run() -> None:
    sources = [dg.AssetKey(["crm", name]) for name in ("größe", "a.b", "a_b")]

    @multi_asset_check(name="sync", specs=[dg.AssetCheckSpec("synced", asset=key) for key in sources], can_subset=True)
    def check(context: dg.AssetCheckExecutionContext):  # type: ignore[no-untyped-def]
        for key in context.selected_asset_check_keys:
            yield dg.AssetCheckResult(asset_key=key.asset_key, check_name=key.name, passed=True)

    definitions = dg.Definitions(
        assets=[dg.AssetSpec(key) for key in sources],
        asset_checks=[check],
        jobs=[dg.define_asset_job("checks", dg.AssetSelection.checks(check))],
    )
    ran = definitions.resolve_job_def("checks").execute_in_process()
    assert {result.asset_key for result in ran.get_asset_check_evaluations()} == {*sources}


def built(tables: Tables, above: list[tuple[str, ...]]) -> tuple[dg.AssetsDefinition, list[dg.AssetSpec]]:
    """An op of these assets, each of which reads all sources and the assets before it."""
    keys = [dg.AssetKey(key) for key in tables]
    sources = [dg.AssetKey(key) for key in above if key not in tables]
    checks = [dg.AssetCheckSpec(name, asset=dg.AssetKey(key)) for key, names in tables.items() for name in names]
    specs = [
        dg.AssetSpec(key, deps=[*sources, *keys[:place]], skippable=True, group_name="g")
        for place, key in enumerate(keys)
    ]

    @multi_asset(name="build", specs=specs, check_specs=checks, can_subset=True)
    def build(context: dg.AssetExecutionContext):  # type: ignore[no-untyped-def]
        for key in keys:
            if key in context.selected_asset_keys:
                yield dg.MaterializeResult(asset_key=key)
        for check in checks:
            if check.key in context.selected_asset_check_keys:
                yield dg.AssetCheckResult(asset_key=check.asset_key, check_name=check.name, passed=True)

    return build, [dg.AssetSpec(key) for key in sources]
