"""`lakehouse diff`: which rows of a table differ between two of its states."""
