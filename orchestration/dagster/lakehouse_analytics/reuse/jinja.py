"""What templates call and read, as far as it is written in them. Pure.

Where the text does not tell, the answers err on the side of building: an obstacle too many, or code that counts as
changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_JINJA = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
_COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)
_CALL = re.compile(r"\b([A-Za-z_]\w*)\s*\(")
#: Expressions whose value is another one in each run.
_CHANGING = re.compile(
    r"\b(run_started_at|invocation_id|modules|invocation_args_dict|selected_resources|flags|graph|dbt_metadata_envs)\b"
    r"|\|\s*(random)\b"
)
_QUERYING = re.compile(r"\b(run_query|statement|load_result)\b|\badapter\.(?!dispatch\b|quote\b)(\w+)")
#: These only read the columns of relations, which are the inputs of the table.
_COLUMNS_ONLY = frozenset({"get_columns_in_relation"})
_THIS = re.compile(r"\bthis\b(?!\.(?:schema|database|identifier|name)\b)")
#: Expressions that read how the model is described.
_DESCRIBED = re.compile(r"\b(model|meta|meta_get|node|tags)\b")
_ENV_VAR = re.compile(r"""\benv_var\s*\(\s*(?:(?:'([A-Za-z_]\w*)'|"([A-Za-z_]\w*)")\s*[,)])?""")
_VAR = re.compile(r"\bvar\s*[(.]")
#: Variables that dbt gets from each run.
_OF_RUN = frozenset({"LAKEHOUSE_RUN_ID", "LAKEHOUSE_JOB", "LAKEHOUSE_PARTITION"})
#: Code in which comments and white space cannot be told from the rest without parsing it: quotes or Jinja in comments,
#: Jinja and backslashes in quotes, dollar quotes, and blocks whose text is a value.
_OPAQUE = re.compile(
    r"""\$|\\|--[^\n]*['"{]|/\*(?:(?!\*/).)*(?:['"{]|/\*)|'[^'\n]*\{[{%]|"[^"\n]*\{[{%]|\{%-?\s*(?:set|call|raw|macro|filter)\b""",
    re.DOTALL,
)
_TOKEN = re.compile(
    r"""(?P<kept>"(?:[^"]|"")*"|'(?:[^']|'')*'|\{\{.*?\}\}|\{%.*?%\})|(?:\s+|--[^\n]*$|/\*.*?\*/)+""",
    re.DOTALL | re.MULTILINE,
)


def normalized(code: str) -> str:
    """Return code in which comments and the kind of white space do not count, where that is certain."""
    if "{% raw" not in code and "{%- raw" not in code:
        code = _COMMENT.sub("", code)
    if _OPAQUE.search(code):
        return code.strip()
    return _TOKEN.sub(lambda found: found["kept"] or " ", code).strip()


def expressions(text: str) -> list[str]:
    """Return the parts of a template that Jinja evaluates."""
    return _JINJA.findall(_COMMENT.sub("", text))


def calls(text: str) -> Iterator[str]:
    """Yield the names of what a template calls."""
    for expression in expressions(text):
        yield from _CALL.findall(expression)


def changing(texts: Iterable[str]) -> str:
    """Return what a template evaluates that is another one in each run; empty if there is nothing."""
    found = (match for text in texts for one in expressions(text) if (match := _CHANGING.search(one)))
    return next((f"{match[1] or match[2]} is another one in each run" for match in found), "")


def unknown(texts: Iterable[str]) -> str:
    """Return what decides the SQL of a template other than its code and its variables; empty if there is nothing."""
    texts = [*texts]
    if why := changing(texts):
        return why
    for expression in (one for text in texts for one in expressions(text)):
        for match in _QUERYING.finditer(expression):
            if match[2] not in _COLUMNS_ONLY:
                return f"{match[0]} reads the database while dbt compiles it"
        if _THIS.search(expression):
            return "this may read what the table contains already"
    names = environment_variables(texts)
    if "" in names:
        return "it calls env_var without the name of a variable"
    if of_run := sorted(names & _OF_RUN):
        return f"{of_run[0]} is another one in each run"
    return ""


def environment_variables(texts: Iterable[str]) -> set[str]:
    """Return the names of the variables that are read. An empty name stands for one that is not a literal."""
    return {found[0] or found[1] for text in texts for found in _ENV_VAR.findall(text)}


def reads_vars(texts: Iterable[str]) -> bool:
    """Return whether `var()` is called."""
    return any(_VAR.search(text) for text in texts)


def reads_description(texts: Iterable[str]) -> bool:
    """Return whether a template reads how the model is described, such as its `meta`."""
    return any(_DESCRIBED.search(one) for text in texts for one in expressions(text))
