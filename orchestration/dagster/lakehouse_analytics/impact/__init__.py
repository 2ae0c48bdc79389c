"""`lakehouse impact`: what a change of the dbt project reaches, and what it breaks.

A side is a compiled manifest. `compiled` makes it without a warehouse, `side` finds the lineage of its columns, `names`
what else names them, `changes` compares two of them, `reach` follows the lineage, `breaking` finds what does not work
anymore, and `report` writes the result.
"""
