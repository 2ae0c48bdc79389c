"""`dg.multi_asset` for thousands of assets and checks, of any name.

Dagster names an op's inputs and outputs after asset keys and checks: dots and dashes become `_`, and the parts are
joined by `_`. So `orders.daily` and `orders_daily` share an output, as do the check `row_count` of `orders` and the
asset `orders_row_count`, and a key with a letter outside ASCII is refused. Here such names are replaced: people see the
asset keys, and the op's own names only in its log.

Dagster also copies description and metadata of each asset to the op's output, and with it into the snapshot of every
job. Here outputs have neither: what describes an asset is stored with the asset.
"""

from __future__ import annotations

import copy
import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import dagster as dg

from lakehouse_analytics._dagster_internals import OutputManagerRequirement, is_valid_name, named

if TYPE_CHECKING:
    from lakehouse_analytics._dagster_internals import AssetLayer, NodeHandle, OutputDefinition, ResourceRequirement

#: Parameters of the ops' functions: an input must not have their names.
_PARAMETERS = frozenset({"context", "config", "dbt_runner", "engine"})

_Spec = TypeVar("_Spec", bound=dg.AssetSpec | dg.AssetCheckSpec)
_Named = TypeVar("_Named")


def multi_asset(
    *,
    name: str,
    specs: Sequence[dg.AssetSpec],
    check_specs: Sequence[dg.AssetCheckSpec] = (),
    can_subset: bool = False,
    allow_arbitrary_check_specs: bool = False,
    backfill_policy: dg.BackfillPolicy | None = None,
    pool: str | None = None,
    op_tags: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """As `dg.multi_asset`, whatever the asset keys are.

    Args:
        name: Of the op.
        specs: The assets.
        check_specs: Their checks. Check names are made by `names.check_name`.
        can_subset: A run may build a part of them.
        allow_arbitrary_check_specs: Checks may be of other assets, too.
        backfill_policy: Of those that are partitioned.
        pool: Concurrency pool of the op.
        op_tags: Of the op.

    Raises:
        ValueError: a check is of another asset, which was not allowed.
    """
    own = {spec.key for spec in specs}
    if not allow_arbitrary_check_specs and (others := {check.asset_key for check in check_specs} - own):
        names = ", ".join(sorted(key.to_user_string() for key in others))
        raise ValueError(f"Checks of assets that op {name} does not build: {names}")
    read = dict.fromkeys(dep.asset_key for spec in specs for dep in spec.deps)
    # Of its own assets, because Dagster splits the op where assets of another op lie between them.
    ins = _inputs(key for key in read if can_subset or key not in own)
    all_of_it: list[dg.AssetSpec | dg.AssetCheckSpec] = [*specs, *check_specs]
    outs = _outputs(all_of_it)
    checks = {output: spec for output, spec in outs.items() if isinstance(spec, dg.AssetCheckSpec)}

    def decorate(function: Callable[..., Any]) -> dg.AssetsDefinition:
        op = _Op.of(function, name, ins, _outs(outs, can_subset), tags=op_tags, pool=pool)
        return _Assets(
            node_def=op,
            keys_by_input_name=ins,
            keys_by_output_name={output: spec.key for output, spec in outs.items() if isinstance(spec, dg.AssetSpec)},
            check_specs_by_output_name=checks,
            specs=specs,
            can_subset=can_subset,
            backfill_policy=backfill_policy,
        )

    return decorate


def multi_asset_check(
    *,
    name: str,
    specs: Sequence[dg.AssetCheckSpec],
    can_subset: bool = False,
    pool: str | None = None,
    op_tags: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., Any]], dg.AssetChecksDefinition]:
    """As `dg.multi_asset_check`, likewise.

    Args:
        name: Of the op.
        specs: The checks.
        can_subset: A run may evaluate a part of them.
        pool: Concurrency pool of the op.
        op_tags: Of the op.
    """
    read = (key for spec in specs for key in (spec.asset_key, *(dep.asset_key for dep in spec.additional_deps)))
    ins = _inputs(dict.fromkeys(read))
    outs = _outputs(specs)

    def decorate(function: Callable[..., Any]) -> dg.AssetChecksDefinition:
        op = _Op.of(function, name, ins, _outs(outs, can_subset), tags=op_tags, pool=pool)
        made: dg.AssetChecksDefinition = dg.AssetChecksDefinition.create(
            node_def=op, keys_by_input_name=ins, check_specs_by_output_name=outs, can_subset=can_subset
        )
        return made

    return decorate


def _inputs(keys: Iterable[dg.AssetKey]) -> dict[str, dg.AssetKey]:
    return _named([("_".join(key.path).replace("-", "_").replace(".", "_"), key.path, key) for key in keys])


def _outputs(specs: Iterable[_Spec]) -> dict[str, _Spec]:
    return _named([_output(spec) for spec in specs])


def _output(spec: _Spec) -> tuple[str, Sequence[str], _Spec]:
    if isinstance(spec, dg.AssetSpec):
        return spec.key.to_python_identifier(), spec.key.path, spec
    return spec.get_python_identifier(), (*spec.asset_key.path, "", spec.name), spec


def _named(wanted: Sequence[tuple[str, Sequence[str], _Named]]) -> dict[str, _Named]:
    """Each thing by its name, and by a digest of its path where the name is none or several would have it."""
    claims = Counter(name for name, _, _ in wanted)
    return {name if claims[name] == 1 and _is_name(name) else _stand_in(path): thing for name, path, thing in wanted}


def _is_name(name: str) -> bool:
    return is_valid_name(name) and name not in _PARAMETERS


def _stand_in(path: Sequence[str]) -> str:
    return "asset_" + hashlib.sha256(json.dumps(path).encode()).hexdigest()[:16]


class _Assets(dg.AssetsDefinition):
    """With keys and input names that are collected once: in a run, Dagster asks for them once per output and per input.

    https://github.com/dagster-io/dagster, `AssetLayer.get_selected_entity_keys_for_node` and `get_node_input_name`
    """

    @staticmethod
    def dagster_internal_init(**attributes: Any) -> _Assets:
        """As Dagster makes a subset."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=dg.BetaWarning)  # of arguments that Dagster itself passes
            return _Assets(**attributes)

    @cached_property
    def asset_and_check_keys(self) -> AbstractSet[dg.AssetKey | dg.AssetCheckKey]:
        """Those of the selection."""
        return frozenset(super().asset_and_check_keys)

    @cached_property
    def input_names_by_node_key(self) -> Mapping[dg.AssetKey, str]:
        """Those of the op."""
        return super().input_names_by_node_key


class _Op(dg.OpDefinition):
    """As `dg.op` makes one, but every job checks once, not once an output, that there is what stores outputs."""

    @classmethod
    def of(
        cls,
        function: Callable[..., Any],
        name: str,
        inputs: Iterable[str],
        outputs: Mapping[str, dg.Out],
        *,
        tags: Mapping[str, str] | None,
        pool: str | None,
    ) -> _Op:
        """The op of a function that has resources and a config as arguments."""
        ins = dict.fromkeys(inputs, dg.In(dg.Nothing))
        read = dg.op(name=name, ins=ins, out={})(function)
        return cls(
            compute_fn=read.compute_fn,
            name=name,
            ins=ins,
            outs=outputs,
            description=read.description,
            config_schema=read.config_schema,
            required_resource_keys=read.required_resource_keys,
            tags=tags,
            pool=pool,
        )

    @cached_property
    def _io_managers(self) -> frozenset[str]:
        return frozenset(output.io_manager_key for output in self.output_defs)

    def get_resource_requirements(
        self, handle: NodeHandle | None, asset_layer: AssetLayer | None
    ) -> Iterator[ResourceRequirement]:
        """Those of Dagster, of which those of outputs come last."""
        found: set[str] = set()
        for requirement in super().get_resource_requirements(handle, asset_layer):
            yield requirement
            if isinstance(requirement, OutputManagerRequirement):
                found.add(requirement.key)
                if found == self._io_managers:
                    return


class _Out(dg.Out):
    """One for all outputs of a kind: Dagster resolves the type of each again, and nothing else of it takes as long."""

    @cached_property
    def _definition(self) -> OutputDefinition:
        return super().to_definition(object, None, None, None)

    def to_definition(
        self,
        annotation_type: type,  # noqa: ARG002
        name: str | None,
        description: str | None,  # noqa: ARG002
        code_version: str | None,  # noqa: ARG002
    ) -> OutputDefinition:
        """As Dagster asks for each name; the type is given, and outputs have neither description nor version."""
        return named(copy.copy(self._definition), name)


def _outs(outputs: Mapping[str, dg.AssetSpec | dg.AssetCheckSpec], can_subset: bool) -> dict[str, dg.Out]:
    asset, check = (_Out(kind, is_required=not can_subset) for kind in (dg.Nothing, None))
    skippable = _Out(dg.Nothing, is_required=False)
    return {
        output: check if isinstance(spec, dg.AssetCheckSpec) else skippable if spec.skippable else asset
        for output, spec in outputs.items()
    }
