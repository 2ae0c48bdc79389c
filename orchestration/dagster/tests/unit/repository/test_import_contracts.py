"""import-linter's contracts cover every module of the root, and docs/architecture.md describes them as they are."""

from __future__ import annotations

import re
from configparser import ConfigParser
from itertools import chain
from pathlib import Path

import pytest
from lakehouse_analytics import resources
from lakehouse_analytics.engines.registry import ENGINES

CODE = Path(__file__).resolve().parents[3]
PAGE = CODE.parents[1] / "docs" / "architecture.md"
PACKAGE = "lakehouse_analytics"

# Root modules that are no source of a contract which otherwise has all of them.
EXCEPTIONS = {
    "leaves": {"defs": "is the user's own code"},
    "entry": {
        "cli": "loads the definitions for some commands",
        "defs": "is the user's own code",
        "doctor": "checks that the definitions load",
    },
}


def _contracts() -> dict[str, tuple[set[str], set[str]]]:
    """Return the sources and the forbidden modules of each contract, without the package's name."""
    parser = ConfigParser()
    parser.read(CODE / ".importlinter")

    def names(section: str, *keys: str) -> set[str]:
        listed = chain.from_iterable(parser.get(section, key, fallback="").split() for key in keys)
        return {name.removeprefix(f"{PACKAGE}.") for name in listed}

    return {
        section.rsplit(":", 1)[1]: (names(section, "source_modules", "modules"), names(section, "forbidden_modules"))
        for section in parser.sections()
        if section.startswith("importlinter:contract:")
    }


def _root_modules() -> set[str]:
    found = (CODE / PACKAGE).iterdir()
    return {p.stem for p in found if p.suffix == ".py" or (p / "__init__.py").exists()} - {"__init__"}


def _described() -> dict[str, tuple[set[str], set[str]]]:
    """Return what the page's list says of each contract: "`a` and `b.{c,d}` do not import `e`." """
    page = PAGE.read_text()
    rules = page[page.index("The allowed imports are defined in") : page.index("## Decisions")]
    described = {}
    for contract, text in re.findall(r"^- \*\*([a-z-]+)\*\*: (.+?)(?=^- |^$)", rules, re.MULTILINE | re.DOTALL):
        sentence = re.split(r"\.\s", text, maxsplit=1)[0]
        sources, forbidden = (_modules(part) for part in re.split(r"do(?:es)? not\s+import", sentence))
        if sentence.startswith("all other modules"):
            sources = _root_modules() - sources - forbidden
        described[contract] = (sources, forbidden)
    return described


def _modules(text: str) -> set[str]:
    """Return the names in backquotes, `a.{b,c}` as `a.b` and `a.c`."""
    names = set()
    for name in re.findall(r"`([^`]+)`", text):
        folder, brace, rest = name.partition("{")
        names |= {folder + part for part in rest.removesuffix("}").split(",")} if brace else {name}
    return names


@pytest.mark.parametrize("contract", EXCEPTIONS)
def test_every_root_module_is_in_the_contract(contract: str) -> None:
    sources, forbidden = _contracts()[contract]
    assert _root_modules() - sources - forbidden == EXCEPTIONS[contract].keys()
    assert sources & EXCEPTIONS[contract].keys() == set()


def test_the_architecture_page_describes_the_contracts() -> None:
    contracts = _contracts()
    assert contracts["leaves"][1] >= {"cli", "doctor"}
    assert _described() == contracts


def test_every_engine_is_where_the_guide_says() -> None:
    """docs/add-an-engine.md, step 3. `.env.example` and the bases of `Settings` are compared by other tests."""
    contracts, folders = _contracts(), {f"engines.{name}" for name in ENGINES}
    assert contracts["engines"][0] == folders
    assert contracts["capabilities"][1] == folders
    assert {name.removesuffix("Resource").lower() for name in resources.__all__ if "Resource" in name} == {*ENGINES}
