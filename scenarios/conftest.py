"""Marks by folder: everything in a folder `unit` needs no privileges."""

import pytest


def pytest_collection_modifyitems(items):
    """Mark unit tests `rootless`."""
    for item in items:
        if "unit" in item.path.parts:
            item.add_marker(pytest.mark.rootless)
