"""A hook of MkDocs: pages from outside docs/, links as the repository has them, and Mermaid from the site itself."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
#: Files of the repository that are pages of the site.
PAGES = {
    "README.md": "index.md",
    "SETUP_GUIDE.md": "setup-guide.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "charts/lakehouse-support/README.md": "lakehouse-support.md",
    "infrastructure/terraform/README.md": "terraform.md",
}
MERMAID = "assets/mermaid.min.js"
STYLE = "assets/site.css"
LINK = re.compile(r"(?P<text>!?\[[^\]]*\])\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"^\s*(```|~~~)")
ITEM = re.compile(r"^(?:[-*]|\d+\.) ")

log = get_plugin_logger("pages")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/, the style, and Mermaid where `make docs` has fetched it."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    files.append(File.generated(config, STYLE, abs_src_path=str(Path(__file__).with_name("site.css"))))
    if os.environ.get("DOCS_MERMAID"):
        files.append(File.generated(config, MERMAID, abs_src_path=os.environ["DOCS_MERMAID"]))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Point the links of a file of the repository at pages of the site, or at the repository."""
    source = source_of(page.file.src_uri)
    lines, fenced = [], False
    for line in with_nested_content(markdown.split("\n")):
        if FENCE.match(line):
            fenced = not fenced
        lines.append(line if fenced else LINK.sub(lambda link: rewritten(link, source, page, config), line))
    return "\n".join(lines)


def with_nested_content(lines: list[str]) -> Iterator[str]:
    """The lines, with four spaces before what is in a list item: Python-Markdown needs four, GitHub two or three."""
    width, fenced, last = 0, False, ""
    for line in lines:
        item = None if fenced else ITEM.match(line)
        if item:
            width = len(item[0])
            if FENCE.match(last):
                yield ""
        elif line and not fenced and not line.startswith(" " * width):
            width = 0
        if FENCE.match(line):
            fenced = not fenced
        yield " " * (4 - width) + line if width and line and not item else line
        last = line


def rewritten(link: re.Match[str], source: str, page: Page, config: MkDocsConfig) -> str:
    """The link as the site needs it: to a page, to the repository, or its text alone where that has no address."""
    text, target = link["text"], link["target"]
    if re.match(r"[a-z]+:|#", target):
        return link[0]
    path, _, anchor = target.partition("#")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if not (ROOT / path).exists():
        log.warning("%s links to %s, which does not exist", source, target)
        return link[0]
    if path in PAGES or path.startswith("docs/"):
        wanted = PAGES.get(path) or path.removeprefix("docs/")
        relative = posixpath.relpath(wanted, posixpath.dirname(page.file.src_uri) or ".")
        return f"{text}({relative}{'#' + anchor if anchor else ''})"
    if config.repo_url:
        return f"{text}({config.repo_url.rstrip('/')}/blob/HEAD/{path}{'#' + anchor if anchor else ''})"
    return f"`{path}`"


def source_of(uri: str) -> str:
    """The path in the repository of a page of the site."""
    return next((source for source, page in PAGES.items() if page == uri), f"docs/{uri}")


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Load Mermaid from the site on the pages that need it; without it, the theme loads it from a CDN."""
    if 'class="mermaid"' not in output or not os.environ.get("DOCS_MERMAID"):
        return output
    address = posixpath.relpath(MERMAID, page.url or ".")
    return output.replace("</head>", f'<script src="{address}"></script></head>', 1)


def on_config(config: MkDocsConfig, **_: Any) -> MkDocsConfig:
    """Without an address of the repository, there is no link to it."""
    config.repo_url = config.repo_url or None
    return config
