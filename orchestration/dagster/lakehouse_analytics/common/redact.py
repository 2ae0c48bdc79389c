"""Masks secrets in messages and logs, in particular in texts of other programs.

Masking every occurrence of every secret is wrong if a secret is an ordinary word: with the password `dagster`,
`dagster.yaml` becomes `****.yaml`. That hides nothing, because the word is everywhere, but reveals the password to
every reader. So there are three kinds of secrets, and each is masked where it certainly is the secret:

=========  ==============================================================  =========================================
kind       which                                                           masked
=========  ==============================================================  =========================================
unusual    8 characters or more, or 6 of more than one class               everywhere, also inside longer words
short      all others                                                      as a whole word
ordinary   words that this program uses itself, numbers of up to 5         where the syntax shows that it is a secret:
           digits, up to 2 characters, and words that the caller prints    `://user:…@`, `password=…`, `Bearer …`
=========  ==============================================================  =========================================
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

MASK = "****"

#: Names of variables and keys whose values are secret.
SECRET_NAME = re.compile(
    r"passw|passphrase|pwd|secret|token|credential|jwt|webhook|private|assertion|authorization"
    r"|(access|api|account|signing|encryption)[._-]?key",
    re.IGNORECASE,
)
_USER_INFO = re.compile(r"(?s)://[^/\s:@]*:(?P<password>.+)@")
#: A parameter of an address, or of a connection string:
#: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING
_PARAMETER = re.compile(r"(?:^|[?&;:\s])(?P<name>[^=&?;:\s]+)\s*=\s*(?:'(?P<quoted>[^']*)'|(?P<value>[^&#;\s]*))")
#: Names of keys that refer to a secret, but whose value is not one: `CLIENT_SECRET_FILE`, `oauth2-server-uri`. The
#: value cannot decide, because a secret may look like a path: some keys of S3 begin with a slash.
_ABOUT = re.compile(r"(file|path|dir|directory|folder|uri|url|endpoint|server|host|issuer|type)$", re.IGNORECASE)
#: The address of a webhook is a secret. Where a webhook of ours listens is not.
_LISTENS = re.compile(r"webhook_(host|port)$", re.IGNORECASE)

_UNUSUAL, _UNUSUAL_MIXED, _SHORT, _LINE = 8, 6, 3, 8
#: What precedes and follows a whole word. Escapes of JSON, Python and URLs end in letters and digits, but are not part
#: of it.
_START = r"(?:(?<![^\W_])|(?<=\\[nrtbf0])|(?<=%[0-9A-Fa-f]{2}))"
_END = r"(?![^\W_])"
#: What precedes a value that can only be a secret.
_NAMED = rf"(?:{SECRET_NAME.pattern}|\bpass|\bpin)[\w.-]{{0,64}}[\"']?"
_POSITION = rf"(?:{_NAMED}(?:\s*[:=]\s*|\s+(?=[\"'`]))|\b(?:bearer|basic)\s+)[\"'`]?"
_VALUE_ENDS = r"(?=\.?(?:$|[\s\"'`,;)&>}\]]))"
#: The password of an address. One with a slash is only found by its value: `http://host:8080/a@b` has no password.
_ADDRESS = re.compile(
    r"(?P<before>\b[a-z][a-z0-9+.-]{0,20}://[^\s/:@\"']*:)(?P<password>[^\s/@\"']+)(?=@)", re.IGNORECASE
)


class Redactor:
    """Masks secrets, also in the notation of JSON, Python and URLs, and each long line of a secret with several lines.

    Args:
        secrets: Secret values.
        public: Words that the caller prints anyway, such as names of users. A secret that equals one counts as
            ordinary.
    """

    def __init__(self, secrets: Iterable[str], public: Iterable[str] = ()) -> None:
        shown = {word.lower() for word in public}
        everywhere: set[str] = set()
        whole: set[str] = set()
        in_position: set[str] = set()
        for secret in {secret for secret in secrets if secret.strip()}:
            kind = _kind(secret.strip(), shown)
            forms = _forms(secret)
            in_position |= forms
            if kind != "ordinary":
                (everywhere if kind == "unusual" else whole).update(forms)
        # Positions first: there, the mask replaces any known secret, even an ordinary word.
        self._patterns = [
            re.compile(f"(?P<before>{_POSITION})(?:{_any(in_position)}){_VALUE_ENDS}", re.IGNORECASE),
            re.compile(f"(?P<before>)(?:{_any(everywhere)})"),
            re.compile(f"(?P<before>)(?:{'|'.join(map(_whole, _longest_first(whole))) or '(?!)'})"),
        ]

    def __call__(self, text: str) -> str:
        """Return the text with every secret masked, and with the password of every address masked."""
        for pattern in self._patterns:
            text = pattern.sub(rf"\g<before>{MASK}", text)
        return _ADDRESS.sub(rf"\g<before>{MASK}", text)


def secret_values(value: Any, name: str = "", names: re.Pattern[str] = SECRET_NAME) -> Iterator[str]:
    """Yield the secret values of a configuration.

    A value is secret if its key has such a name. So are passwords of addresses, and parameters of an address or
    connection string (`password=…`) whose names match. The name of a file or an address is not secret as a whole if its
    key says what it is (`…_FILE`, `…_URL`), except for the address of a webhook.

    Args:
        value: Mappings, lists and scalars.
        name: The key of `value`.
        names: Keys whose values are secret.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from secret_values(item, f"{name}.{key}", names)
        return
    if isinstance(value, list | tuple):
        for item in value:
            yield from secret_values(item, name, names)
        return
    if value is None or isinstance(value, bool):
        return
    text = str(value)
    about = _LISTENS if "webhook" in name.lower() else _ABOUT
    if names.search(name) and not about.search(name):
        yield text
        if name.lower().endswith("credential"):  # for an OAuth2 client, ID:SECRET
            yield text.rpartition(":")[2]
    for found in _USER_INFO.finditer(text):
        # A program that parses the address may truncate a password with @ or / in it, and then quotes only a part.
        yield from (found["password"], *re.split(r"[/@:]", found["password"]))
    for found in _PARAMETER.finditer(text):
        if names.search(found["name"]):
            yield found["quoted"] or found["value"] or ""


@lru_cache(maxsize=1)
def ordinary_words() -> frozenset[str]:
    """Return the words in this program's own source, in lower case. Masking a secret that equals one cannot hide it."""
    found = {"admin", "administrator", "root", "guest", "postgres", "minio", "garage", "nessie", "polaris", "glue"}
    for path in Path(__file__).parents[1].rglob("*.py"):
        for token in re.findall(r"[A-Za-z][A-Za-z0-9]*(?:[-_.][A-Za-z0-9]+)*", path.read_text(encoding="utf-8")):
            found |= {token.lower(), *re.split(r"[-_.]", token.lower())}
    return frozenset(found)


def _kind(secret: str, public: set[str]) -> str:
    if len(secret) < _SHORT or (secret.isdecimal() and len(secret) <= 5):  # such as a port or a year
        return "ordinary"
    one_case = secret in (secret.lower(), secret.upper(), secret.capitalize())
    if one_case and (secret.lower() in public or secret.lower() in ordinary_words()):
        return "ordinary"
    classes = sum(
        any(map(is_of, secret)) for is_of in (str.isupper, str.islower, str.isdigit, lambda c: not c.isalnum())
    )
    mixed = classes > 1 and not secret.istitle()
    return "unusual" if len(secret) >= _UNUSUAL or (len(secret) >= _UNUSUAL_MIXED and mixed) else "short"


def _forms(secret: str) -> set[str]:
    lines = [line.strip() for line in secret.splitlines() if len(line.strip()) >= _LINE]
    forms: set[str] = set()
    for text in (secret, secret.strip(), *lines):
        forms |= {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1]}
        forms |= {quote(text, safe=""), quote_plus(text), unquote(text), unquote_plus(text)}
    return {form for form in forms if form.strip()}


def _longest_first(forms: Iterable[str]) -> list[str]:
    # A secret that contains another one must be masked as a whole.
    return sorted(forms, key=lambda form: (-len(form), form))


def _any(forms: Iterable[str]) -> str:
    return "|".join(map(re.escape, _longest_first(forms))) or "(?!)"


def _whole(form: str) -> str:
    return (_START if form[0].isalnum() else "") + re.escape(form) + (_END if form[-1].isalnum() else "")
