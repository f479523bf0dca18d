"""A mark on the tests that judge: a run in which none of them has judged a number has failed."""


def pytest_itemcollected(item):
    """Give each test that uses the fixture `lab` the keyword `judges`. Its reports have it too, also those of a worker."""
    if "lab" in item.fixturenames:
        item.keywords["judges"] = True
