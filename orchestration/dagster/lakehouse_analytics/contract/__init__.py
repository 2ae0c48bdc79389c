"""`meta.lakehouse`: what a dbt project may say of a model or a source."""
