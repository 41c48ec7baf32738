"""`make docs`: what MkDocs needs to make a site of the Markdown files, wherever they are in the checkout.

In: the files of MkDocs, which are those below docs/. Out: these, the pages that are kept beside what they describe, and
every other file that a page links to, as it is. Left to others: which pages there are (mkdocs.yml), building (MkDocs).

The Markdown is written for readers of the repository, where a link is a path from its page. So each link is resolved
there, and then said as the site has it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

__all__ = ["on_files", "on_page_markdown"]

CHECKOUT = Path(__file__).parents[1]
#: Pages that are not below docs/, by their place in the checkout, and their place in the site.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "deploy/hub/README.md": "deploy/hub/README.md",
    "certs.example/README.md": "certs.example/README.md",
}
_IN_CHECKOUT = {place: source for source, place in PAGES.items()}
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from elsewhere, and the files that any page links to."""
    linked: set[str] = set()
    pages = [file for file in files if file.is_documentation_page()]
    for source, place in PAGES.items():
        pages.append(File.generated(config, place, abs_src_path=str(CHECKOUT / source)))
        files.append(pages[-1])
    for page in pages:
        source = _source_of(page.src_uri)
        linked |= {_target(source, match[1]) for match in _LINK.finditer((CHECKOUT / source).read_text("utf-8"))}
    for target in sorted(linked):
        if not target.startswith("docs/") and target not in PAGES:
            if not (CHECKOUT / target).is_file():
                raise PluginError(f"{target} is linked to and is no file: link to a file in it")
            files.append(File.generated(config, f"files/{target}", abs_src_path=str(CHECKOUT / target)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Say each link as the site has it."""
    del config, files
    source, place = _source_of(page.file.src_uri), page.file.src_uri

    def moved(match: re.Match[str]) -> str:
        target = _target(source, match[1])
        there = PAGES.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else f"files/{target}")
        return posixpath.relpath(there, posixpath.dirname(place) or ".") + (match[2] or "")

    return _LINK.sub(moved, markdown)


def _source_of(place: str) -> str:
    return _IN_CHECKOUT.get(place, f"docs/{place}")


def _target(source: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
