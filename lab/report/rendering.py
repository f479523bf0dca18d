"""What the pages of the lab have in common: templates that escape, and the hashes that allow a page's own script and style."""

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lab.units import duration_text


def templates(**options: Any) -> Environment:
    """Return the templates of this package; they escape every value. `options`: as for `jinja2.Environment`."""
    found = Environment(
        loader=PackageLoader("lab.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
    found.filters["time"] = duration_text
    return found


def inline(*names: str) -> tuple[Markup, str]:
    """Return files of the templates' folder as one text for a page, and the hash that its Content-Security-Policy names."""
    folder = Path(__file__).with_name("templates")
    text = "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)
    digest = hashlib.sha256(text.encode()).digest()
    return Markup(text), "sha256-" + base64.b64encode(digest).decode()  # noqa: S704 (files of this package)
