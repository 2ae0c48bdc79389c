"""dbt in a separate process, which builds exactly the nodes that a run requests."""

#: Kinds of questions from dbt's process to the run: may a table be built, does a row count pass, may the build end.
STARTING, GATE, FINISHING = "starting", "gate", "finishing"
#: The answer to `STARTING` for a table that need not be built, because it would become what it is.
UNCHANGED = "unchanged"
