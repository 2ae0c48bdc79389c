"""`lakehouse webhook`: other systems report that they have loaded a table.

`POST /arrived/<source>/<table>` records a materialization of the source, as a trigger does after a load that it has
found. A sensor requests the runs that follow.
"""
