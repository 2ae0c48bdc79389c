"""Changes of three dbt projects, each with what it reaches and whether it breaks something, as written by hand."""
