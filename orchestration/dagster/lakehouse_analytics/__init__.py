"""The Dagster code location of a lakehouse: a dbt project as gated, layered assets."""

import os

from lakehouse_analytics.common.garbage import collect_rarely
from lakehouse_analytics.common.service_links import remove_service_links
from lakehouse_analytics.dbt import early

# Here, because every process of ours imports the package before anything reads the environment: the code server, a run,
# `lakehouse`, and the dbt processes that inherit it.
remove_service_links(os.environ)
collect_rarely()
early.start()
