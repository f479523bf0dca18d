"""Draw pictures into files, and check beforehand that this will work."""

import importlib.util
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.errors import LabError
from lab.output.file import replacing, require_writable

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # imported lazily: it takes half a second

_PIXELS_PER_INCH = 150


def require_drawable(path: Path) -> None:
    """Raise an error if no picture can be drawn, or none be written to this path. Call it before recording."""
    if path.suffix not in {".png", ".svg", ".pdf"}:
        raise LabError(f"{path} is not the name of a picture: use a name that ends in .png, .svg or .pdf")
    require_writable(path)
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError(name="matplotlib")
    import logging  # noqa: PLC0415 (a tenth of a live tool's start)

    # Matplotlib builds its font cache at the first picture on a machine and logs that between the tool's lines.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)


def figure(**options: Any) -> "Figure":
    """Return an empty figure. `options`: as for `matplotlib.figure.Figure`.

    Matplotlib reads a file `matplotlibrc` of the current folder while it is imported. That folder may belong to another user, so a
    folder of the lab is the current one meanwhile.
    """
    before = os.open(".", os.O_PATH)  # a folder that has been removed has no path to return to
    os.chdir(Path(__file__).parent)
    try:
        from matplotlib.figure import Figure
    finally:
        os.fchdir(before)
        os.close(before)
    return Figure(**options)


def save(drawn: "Figure", path: Path) -> None:
    """Write a picture; the suffix of the name gives the format. Raises `LabError` if it cannot be written."""
    picture = io.BytesIO()
    drawn.savefig(picture, format=path.suffix.removeprefix("."), dpi=_PIXELS_PER_INCH)
    with replacing(path, "wb") as file:
        file.write(picture.getbuffer())
