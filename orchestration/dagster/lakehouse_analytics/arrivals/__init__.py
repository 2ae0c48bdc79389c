"""What fills raw tables beside Airbyte: files, databases, and systems that report a load themselves.

`meta.lakehouse.arrives` of a dbt source describes each; `contract/arrivals.py` has its keys.
"""
