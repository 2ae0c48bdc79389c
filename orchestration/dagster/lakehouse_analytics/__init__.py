"""The Dagster code location of a lakehouse: a dbt project as gated, layered assets."""

import os
from typing import TYPE_CHECKING

from lakehouse_analytics.common.garbage import collect_rarely
from lakehouse_analytics.common.service_links import remove_service_links
from lakehouse_analytics.dbt import early

# Here, because every process of ours imports the package before anything reads the environment: the code server, a run,
# `lakehouse`, and the dbt processes that inherit it.
remove_service_links(os.environ)
collect_rarely()
early.start()

if not TYPE_CHECKING:
    #: By this name Dagster finds the definitions in the package itself (`python_package: lakehouse_analytics`). Not by
    #: `defs`, which is the folder of the user's own.
    _DEFINITIONS = "code_location"

    def __dir__():
        return [*globals(), _DEFINITIONS]

    def __getattr__(name):
        if name == _DEFINITIONS:
            from lakehouse_analytics.definitions import defs

            return defs
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
