"""HTML pages that open offline: fills a template and carries its data; knows nothing of what a page shows."""

import json
import re
from collections.abc import Mapping
from typing import Any


def filled(template: str, parts: Mapping[str, str]) -> str:
    """The template with each `{{name}}` replaced by that part, once: what stands in a part is left as it is."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def as_script(content: Any) -> str:
    """JSON that no text in it can end: inside a script element, `<` alone could."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
