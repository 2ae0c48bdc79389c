"""`dg.multi_asset` for assets of any name.

Dagster names an op's inputs and outputs after asset keys and checks: dots and dashes become `_`, and the parts are
joined by `_`. So `orders.daily` and `orders_daily` share an output, as do the check `row_count` of `orders` and the
asset `orders_row_count`, and a key with a letter outside ASCII is refused. Here such keys are replaced by others while
the op is made, and put back afterwards: people see the asset keys, and the op's own names only in its log.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import dagster as dg

#: Parameters of the ops' functions: an input must not have their names.
_PARAMETERS = frozenset({"context", "config", "dbt", "engine"})


def multi_asset(
    *, specs: Sequence[dg.AssetSpec], check_specs: Sequence[dg.AssetCheckSpec] = (), **options: Any
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """As `dg.multi_asset`, whatever the asset keys are.

    Args:
        specs: The assets.
        check_specs: Their checks. Check names are made by `names.check_name`.
        options: Of `dg.multi_asset`.
    """
    stand_ins = _stand_ins(specs, check_specs)
    actual = {new: key for key, new in stand_ins.items()}

    def decorate(function: Callable[..., Any]) -> dg.AssetsDefinition:
        made = dg.multi_asset(
            specs=[_renamed(spec, stand_ins) for spec in specs],
            check_specs=[_renamed_check(check, stand_ins) for check in check_specs],
            **options,
        )(function)
        return made.with_attributes(asset_key_replacements=actual) if actual else made

    return decorate


def multi_asset_check(
    *, specs: Sequence[dg.AssetCheckSpec], **options: Any
) -> Callable[[Callable[..., Any]], dg.AssetChecksDefinition]:
    """As `dg.multi_asset_check`, whatever the asset keys are.

    Args:
        specs: The checks.
        options: Of `dg.multi_asset_check`.
    """
    stand_ins = _stand_ins([dg.AssetSpec(key) for key in dict.fromkeys(spec.asset_key for spec in specs)], specs)
    actual = {new: key for key, new in stand_ins.items()}

    def decorate(function: Callable[..., Any]) -> dg.AssetChecksDefinition:
        renamed = [_renamed_check(spec, stand_ins) for spec in specs]
        made = dg.multi_asset_check(specs=renamed, **options)(function)
        if not actual:
            return made
        return cast("dg.AssetChecksDefinition", made.with_attributes(asset_key_replacements=actual))

    return decorate


def _stand_ins(
    specs: Iterable[dg.AssetSpec], check_specs: Iterable[dg.AssetCheckSpec]
) -> dict[dg.AssetKey, dg.AssetKey]:
    """Another key for each whose op names are not its own, or not names."""
    outputs: dict[str, set[dg.AssetKey]] = defaultdict(set)
    claims: dict[str, int] = defaultdict(int)
    inputs: dict[str, set[dg.AssetKey]] = defaultdict(set)
    for spec in specs:
        outputs[spec.key.to_python_identifier()].add(spec.key)
        claims[spec.key.to_python_identifier()] += 1
        for key in (spec.key, *(dep.asset_key for dep in spec.deps)):
            inputs["_".join(key.path).replace("-", "_").replace(".", "_")].add(key)
    for check in check_specs:
        outputs[check.get_python_identifier()].add(check.asset_key)
        claims[check.get_python_identifier()] += 1
    wrong = {key for name, keys in outputs.items() if claims[name] > 1 or not _is_name(name) for key in keys} | {
        key for name, keys in inputs.items() if len(keys) > 1 or not _is_name(name) for key in keys
    }
    return {key: _stand_in(key) for key in sorted(wrong)}


def _is_name(name: str) -> bool:
    from dagster._core.definitions.utils import is_valid_name

    return is_valid_name(name) and name not in _PARAMETERS


def _stand_in(key: dg.AssetKey) -> dg.AssetKey:
    return dg.AssetKey("asset_" + hashlib.sha256(json.dumps(key.path).encode()).hexdigest()[:16])


def _renamed(spec: dg.AssetSpec, stand_ins: Mapping[dg.AssetKey, dg.AssetKey]) -> dg.AssetSpec:
    if stand_ins.keys().isdisjoint([spec.key, *(dep.asset_key for dep in spec.deps)]):
        return spec  # nearly every one: a copy costs 0.2 ms
    return spec.replace_attributes(key=stand_ins.get(spec.key, spec.key), deps=[*_dependencies(spec.deps, stand_ins)])


def _renamed_check(check: dg.AssetCheckSpec, stand_ins: Mapping[dg.AssetKey, dg.AssetKey]) -> dg.AssetCheckSpec:
    if check.asset_key not in stand_ins:
        return check
    return check.replace_key(check.key.replace_asset_key(stand_ins.get(check.asset_key, check.asset_key)))


def _dependencies(deps: Iterable[dg.AssetDep], stand_ins: Mapping[dg.AssetKey, dg.AssetKey]) -> Iterator[dg.AssetDep]:
    for dep in deps:
        key = stand_ins.get(dep.asset_key, dep.asset_key)
        yield dg.AssetDep(key, partition_mapping=dep.partition_mapping, metadata=dep.metadata)
