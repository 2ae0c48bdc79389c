"""A variant of `dg.multi_asset` for thousands of assets and checks with arbitrary names.

Dagster names an op's inputs and outputs after asset keys and checks: it replaces dots and dashes with `_`, and joins
the parts with `_`. So `orders.daily` and `orders_daily` have the same output, as do the check `row_count` of `orders`
and the asset `orders_row_count`, and a key with a non-ASCII letter is refused. This module replaces such names. Users
see the asset keys; the names of the op's inputs and outputs only appear in its log.

Dagster also copies the description and the metadata of each asset to the op's output, and thereby into the snapshot of
every job. Here, outputs have neither, because both are stored with the asset.
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

#: Names of the parameters of the ops' functions, which inputs must not have.
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
    """Create an op that builds several assets, like `dg.multi_asset`, with any asset keys.

    Args:
        name: The name of the op.
        specs: The assets.
        check_specs: The checks that the op evaluates. Their names are made by `names.check_name`.
        can_subset: Whether a run may build only some of them.
        allow_arbitrary_check_specs: Whether checks may be on other assets.
        backfill_policy: The backfill policy of the partitioned assets.
        pool: The concurrency pool of the op.
        op_tags: The tags of the op.

    Raises:
        ValueError: A check is on another asset, and `allow_arbitrary_check_specs` is not set.
    """
    own = {spec.key for spec in specs}
    if not allow_arbitrary_check_specs and (others := {check.asset_key for check in check_specs} - own):
        names = ", ".join(sorted(key.to_user_string() for key in others))
        raise ValueError(f"Checks of assets that op {name} does not build: {names}")
    read = dict.fromkeys(dep.asset_key for spec in specs for dep in spec.deps)
    # With `can_subset`, its own assets are inputs as well, because Dagster splits the op if assets of another op lie
    # between them.
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
    """Create an op that evaluates several checks, like `dg.multi_asset_check`, on assets with any keys.

    Args:
        name: The name of the op.
        specs: The checks.
        can_subset: Whether a run may evaluate only some of them.
        pool: The concurrency pool of the op.
        op_tags: The tags of the op.
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
    return _by_name([("_".join(key.path).replace("-", "_").replace(".", "_"), key.path, key) for key in keys])


def _outputs(specs: Iterable[_Spec]) -> dict[str, _Spec]:
    return _by_name([_output(spec) for spec in specs])


def _output(spec: _Spec) -> tuple[str, Sequence[str], _Spec]:
    if isinstance(spec, dg.AssetSpec):
        return spec.key.to_python_identifier(), spec.key.path, spec
    return spec.get_python_identifier(), (*spec.asset_key.path, "", spec.name), spec


def _by_name(wanted: Sequence[tuple[str, Sequence[str], _Named]]) -> dict[str, _Named]:
    """Return the items by name, or by a digest of the path if the name is invalid or not unique."""
    claims = Counter(name for name, _, _ in wanted)
    return {name if claims[name] == 1 and _is_name(name) else _digest_name(path): thing for name, path, thing in wanted}


def _is_name(name: str) -> bool:
    return is_valid_name(name) and name not in _PARAMETERS


def _digest_name(path: Sequence[str]) -> str:
    return "asset_" + hashlib.sha256(json.dumps(path).encode()).hexdigest()[:16]


class _Assets(dg.AssetsDefinition):
    """Assets whose keys and input names are computed once.

    During a run, Dagster requests them for every output and input. https://github.com/dagster-io/dagster,
    `AssetLayer.get_selected_entity_keys_for_node` and `get_node_input_name`
    """

    @staticmethod
    def dagster_internal_init(**attributes: Any) -> _Assets:
        """Create an instance of this class when Dagster makes a subset."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=dg.BetaWarning)  # about arguments that Dagster itself passes
            return _Assets(**attributes)

    @cached_property
    def asset_and_check_keys(self) -> AbstractSet[dg.AssetKey | dg.AssetCheckKey]:
        """The keys of the selected assets and checks."""
        return frozenset(super().asset_and_check_keys)

    @cached_property
    def input_names_by_node_key(self) -> Mapping[dg.AssetKey, str]:
        """The input names of the op by asset key."""
        return super().input_names_by_node_key


class _Op(dg.OpDefinition):
    """An op like those of `dg.op`, whose outputs' I/O managers each job verifies once instead of once per output."""

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
        """Create the op of a function that has resources and a config as parameters."""
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
        """Yield Dagster's requirements, up to the first one of each I/O manager. Those of outputs come last."""
        found: set[str] = set()
        for requirement in super().get_resource_requirements(handle, asset_layer):
            yield requirement
            if isinstance(requirement, OutputManagerRequirement):
                found.add(requirement.key)
                if found == self._io_managers:
                    return


class _Out(dg.Out):
    """An output definition that all outputs of a kind share.

    Dagster would resolve the type of each output again, which is the slowest part of creating one.
    """

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
        """Return a copy of the shared definition with another name.

        The type is always the same, and outputs have neither a description nor a code version.
        """
        return named(copy.copy(self._definition), name)


def _outs(outputs: Mapping[str, dg.AssetSpec | dg.AssetCheckSpec], can_subset: bool) -> dict[str, dg.Out]:
    asset, check = (_Out(kind, is_required=not can_subset) for kind in (dg.Nothing, None))
    skippable = _Out(dg.Nothing, is_required=False)
    return {
        output: check if isinstance(spec, dg.AssetCheckSpec) else skippable if spec.skippable else asset
        for output, spec in outputs.items()
    }
