"""Pictures as files: whether one can be made, and making it."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from lab.errors import LabError

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # half a second that other uses need not wait for

_PIXELS_PER_INCH = 150


def require_drawable(path: Path) -> None:
    """Raise `LabError` when a picture of this name cannot be made, before anything is recorded for it."""
    if path.suffix not in {".png", ".svg", ".pdf"}:
        raise LabError(f"{path} is no name for a picture: let it end in .png, .svg or .pdf")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise LabError(f"{path} cannot be written: choose another file for --plot")
    import logging  # noqa: PLC0415 (a tenth of a live tool's start)

    # The first picture on a machine takes some seconds more, about which Matplotlib would talk among the tool's own lines.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)


def save(figure: "Figure", path: Path) -> None:
    """Write a picture, of the type that the file's name says. Raises `LabError` when there is no way to."""
    try:
        figure.savefig(path, dpi=_PIXELS_PER_INCH)
    except OSError as error:
        raise LabError(f"{path} cannot be written ({error.strerror}): choose another file for --plot") from error
    except ValueError as error:
        raise LabError(f"{path} cannot be drawn ({error}): let its name end in .png, .svg or .pdf") from error
