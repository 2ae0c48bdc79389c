"""Branches of an Iceberg catalog: copies of tables that cost nothing, and are published together or not at all.

A branch of a table is another row of the catalog that points to the same metadata. Whatever is written through that
row, such as inserts, merges or `create or replace table`, creates new metadata and leaves the row of the table itself
as it was. Publishing exchanges the metadata locations of all tables of a branch in one transaction of the catalog.
"""
