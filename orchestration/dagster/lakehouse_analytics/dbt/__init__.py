"""dbt: one process for a run, which builds exactly what the run asks for."""
