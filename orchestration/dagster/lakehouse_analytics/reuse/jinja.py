"""What templates read, as far as it is written in them. Pure.

Where the text does not tell, the answers err on the side of building: an obstacle too many, or code that counts as
changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lakehouse_analytics.dbt.macro_calls import expressions, without_comments

#: Expressions whose value is another one in each run.
_CLOCK = re.compile(r"\b(run_started_at|invocation_id|modules\b(?!\.(?:re|itertools)\b))|\|\s*(random)\b")
_OF_INVOCATION = re.compile(r"\b(invocation_args_dict|selected_resources|graph|dbt_metadata_envs)\b")
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
#: Blocks of Jinja whose text is a value.
_BLOCK = re.compile(r"\{%-?\s*(?:set|call|raw|macro|filter)\b")
#: Quoted names and texts, Jinja, and what is between them: white space and comments.
_TOKEN = re.compile(
    r"""(?P<quoted>"(?:[^"]|"")*"|'(?:[^']|'')*')|(?P<jinja>\{\{.*?\}\}|\{%.*?%\})|(?P<gap>(?:\s+|--[^\n]*$|/\*.*?\*/)+)""",
    re.DOTALL | re.MULTILINE,
)
_COMMENT_OF_SQL = re.compile(r"--([^\n]*)$|/\*(.*?)\*/", re.DOTALL | re.MULTILINE)


def normalized(code: str) -> str:
    """Return code in which comments and the kind of white space do not count, where that is certain."""
    if not _BLOCK.search(code):
        code = without_comments(code)
    if _is_opaque(code):
        return code.strip()
    return _TOKEN.sub(lambda found: " " if found["gap"] else found[0], code).strip()


def _is_opaque(code: str) -> bool:
    """Return whether comments and white space cannot be found without parsing the code.

    That is so with dollar quotes and backslashes, with quotes, Jinja and comments in comments, with Jinja in quotes,
    and with blocks whose text is a value.
    """
    if "$" in code or "\\" in code or _BLOCK.search(code):
        return True
    for found in _TOKEN.finditer(code):
        if found["quoted"] and "{" in found["quoted"]:
            return True
        comments = (match[1] or match[2] or "" for match in _COMMENT_OF_SQL.finditer(found["gap"] or ""))
        if any(re.search(r"""['"{]|--|/\*""", comment) for comment in comments):
            return True
    return False


def clock(texts: Iterable[str]) -> str:
    """Return what a template evaluates that depends on the time or on chance; empty if there is nothing."""
    found = (match for text in texts for one in expressions(text) if (match := _CLOCK.search(one)))
    return next((f"{match[1] or match[2]} is another one in each run" for match in found), "")


def unknown(texts: Iterable[str]) -> str:
    """Return what decides the SQL of a template other than its code and its variables; empty if there is nothing."""
    texts = [*texts]
    if why := clock(texts):
        return why
    for expression in (one for text in texts for one in expressions(text)):
        if why := _unknown(expression):
            return why
    names = environment_variables(texts)
    if "" in names:
        return "it calls env_var without the name of a variable"
    of_run = sorted(names & _OF_RUN)
    return f"{of_run[0]} is another one in each run" if of_run else ""


def _unknown(expression: str) -> str:
    if match := _OF_INVOCATION.search(expression):
        return f"{match[1]} may be another one in each run"
    for match in _QUERYING.finditer(expression):
        if match[2] not in _COLUMNS_ONLY:
            return f"{match[0]} reads the database while dbt compiles it"
    return "this may read what the table contains already" if _THIS.search(expression) else ""


def environment_variables(texts: Iterable[str]) -> set[str]:
    """Return the names of the variables that are read. An empty name stands for one that is not a literal."""
    return {found[0] or found[1] for text in texts for found in _ENV_VAR.findall(text)}


def reads_vars(texts: Iterable[str]) -> bool:
    """Return whether `var()` is called."""
    return any(_VAR.search(text) for text in texts)


def reads_description(texts: Iterable[str]) -> bool:
    """Return whether a template reads how the model is described, such as its `meta`."""
    return any(_DESCRIBED.search(one) for text in texts for one in expressions(text))
