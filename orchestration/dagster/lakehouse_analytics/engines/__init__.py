"""Where the tables are. `base` says what an engine can do; `registry` which of them a project has."""
