"""The Dagster code location of a lakehouse: a dbt project as assets in layers, with gates."""

import os
from typing import TYPE_CHECKING

from lakehouse_analytics.common.garbage import collect_garbage_rarely
from lakehouse_analytics.common.service_links import remove_service_links
from lakehouse_analytics.dbt import early

# This is done here, because all processes import the package before they read the environment: the code server, runs,
# `lakehouse`, and dbt processes, which inherit it.
remove_service_links(os.environ)
collect_garbage_rarely()
early.start()

if not TYPE_CHECKING:
    #: The name under which Dagster finds the definitions in the package itself (`python_package: lakehouse_analytics`).
    #: It is not `defs`, because that is the folder of the user's own definitions.
    _DEFINITIONS = "code_location"
    #: Components, which have a short name. They are not in `__dir__`, so that dg lists each once.
    _COMPONENTS = frozenset({"FileLanding", "TableSync", "Publish"})

    def __dir__():
        return [*globals(), _DEFINITIONS]

    def __getattr__(name):
        if name == _DEFINITIONS:
            from lakehouse_analytics.definitions import defs

            return defs
        if name in _COMPONENTS:
            from lakehouse_analytics import components

            return getattr(components, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
