"""The dbt profile: the file and the target that dbt uses, and the names of databases and schemas in it.

This package follows dbt's own rules, so that a project that runs with `dbt build` needs none of our settings. It reads
`profiles.yml` without importing dbt, because the code location must load fast. `lakehouse manifest` compares the result
with the credentials that dbt itself reads from the file (`prepare.py`).

`file` finds and reads `profiles.yml`, `rendering` renders its Jinja, `target` selects the target and reads its fields,
and `unset_variables` creates placeholders for variables that are only set where the code location runs.

Format: https://docs.getdbt.com/docs/core/connect-data-platform/profiles.yml
"""

from lakehouse_analytics.dbt.profile.file import FILE, Place, ProfileError, find, load_yaml
from lakehouse_analytics.dbt.profile.rendering import Jinja, is_secret
from lakehouse_analytics.dbt.profile.target import Profile, Request, read
from lakehouse_analytics.dbt.profile.unset_variables import PLACEHOLDER, placeholders

__all__ = [
    "FILE",
    "PLACEHOLDER",
    "Jinja",
    "Place",
    "Profile",
    "ProfileError",
    "Request",
    "find",
    "is_secret",
    "load_yaml",
    "placeholders",
    "read",
]
