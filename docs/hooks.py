"""What the site needs beside Markdown: the plots of the benchmarks, and links that lead out of ``docs``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).parents[1]
_RESULTS = "benches/results"
_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")


def on_files(files: Files, *, config: Any) -> Files:
    """Add the plots."""
    for plot in sorted((_ROOT / _RESULTS).glob("*.svg")):
        files.append(File.generated(config, f"results/{plot.name}", abs_src_path=str(plot)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Show the plots; name files that are not part of the site without a link."""
    markdown = markdown.replace(f"](../{_RESULTS}/", "](results/")
    if page.file.src_uri.count("/"):
        return markdown
    return _OUTSIDE.sub(r"\1", markdown)
