"""What a dbt project should change: settings that expose half-written tables, models that cannot be partitioned."""
