"""The network under test: hosts in namespaces, the link between them, and the conditions on that link."""
