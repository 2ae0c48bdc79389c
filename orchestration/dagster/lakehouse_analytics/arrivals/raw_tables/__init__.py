"""Raw tables as arrivals write them: rows, columns and state of a table change together, in one commit."""
