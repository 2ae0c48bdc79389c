"""Which columns a query reads, and what each of its columns is made of, by sqlglot. Pure.

sqlglot takes 0.2 seconds to import, so that the code location imports this package only when a table is built.
"""
