"""The dbt profile in force: which file and target dbt uses, and what of it names databases and schemas.

Follows dbt's own rules, so that a project that runs with `dbt build` needs none of our settings. Reads `profiles.yml`
without importing dbt, because the code location must load fast. `lakehouse manifest` compares the result with the
credentials that dbt itself reads from the file (`prepare.py`).

`file` finds and reads `profiles.yml`, `rendering` renders its Jinja, `target` chooses the target and reads its fields,
and `unset_variables` makes placeholders for variables that are set only where the code location runs.

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
