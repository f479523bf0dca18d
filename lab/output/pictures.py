"""Write pictures to files, and check beforehand that this will work."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from lab.errors import LabError

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # imported lazily: it takes half a second

_PIXELS_PER_INCH = 150


def require_drawable(path: Path) -> None:
    """Raise `LabError` if no picture can be written to this path. Call it before recording."""
    if path.suffix not in {".png", ".svg", ".pdf"}:
        raise LabError(f"{path} is not the name of a picture: use a name that ends in .png, .svg or .pdf")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise LabError(f"{path} cannot be written: choose another file for --plot")
    import logging  # noqa: PLC0415 (a tenth of a live tool's start)

    # Matplotlib builds its font cache at the first picture on a machine and logs that between the tool's lines.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)


def save(figure: "Figure", path: Path) -> None:
    """Write a picture; the suffix of the name gives the format. Raises `LabError` if it cannot be written."""
    try:
        figure.savefig(path, dpi=_PIXELS_PER_INCH)
    except OSError as error:
        raise LabError(f"{path} cannot be written ({error.strerror}): choose another file for --plot") from error
    except ValueError as error:
        raise LabError(f"{path} cannot be drawn ({error}): use a name that ends in .png, .svg or .pdf") from error
