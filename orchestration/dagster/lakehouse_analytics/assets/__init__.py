"""Assets of the code location."""
