"""A hook of MkDocs for links that leave ``docs/``, such as ``../runs/README.md``.

On GitHub they work as they stand. The site holds ``docs/`` alone, so there such a link leads to the
repository (``repo_url`` of ``mkdocs.yml``, if it is set) or becomes plain text.
"""

from __future__ import annotations

import re
from typing import Any

_LEAVING = re.compile(r"(!?)\[([^\]]*)\]\(\.\./([^)\s]+)\)")


def on_page_markdown(markdown: str, *, config: Any, **_: Any) -> str:
    """Return the text of a page with the links that leave ``docs/`` replaced (a name that MkDocs calls)."""
    repository = (config.get("repo_url") or "").rstrip("/")

    def replaced(match: re.Match[str]) -> str:
        text, path = match[2], match[3]
        return f"[{text}]({repository}/blob/main/{path})" if repository else text

    return _LEAVING.sub(replaced, markdown)
