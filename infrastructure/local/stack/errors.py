"""The one error of the tool: its text is all that a person gets to read."""


class StackError(Exception):
    """Something that the person in front of the terminal can act on."""
