"""Adds the man page and the completions of shells to a wheel; they are made from the parsers (`release.manual`)."""

import sys
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class SharedFiles(BuildHookInterface[Any]):
    """Hatch calls it before it collects the files of a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the files and say where they belong."""
        if version == "editable":
            return
        sys.path.insert(0, self.root)
        try:
            from release.manual import shared_files  # noqa: PLC0415 - not there before
        finally:
            sys.path.remove(self.root)
        directory = Path(mkdtemp())
        for place, text in shared_files().items():
            path = directory / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            build_data["shared_data"][str(path)] = f"share/{place}"
