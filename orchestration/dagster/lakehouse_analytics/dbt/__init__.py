"""dbt: one process for a run, which builds exactly what the run asks for."""

#: Questions that a build asks its run: may a table be built, does a row count hold, may the build end.
STARTING, GATE, FINISHING = "starting", "gate", "finishing"
