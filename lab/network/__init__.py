"""The network under test: two hosts in namespaces, the link between them and the conditions on that link."""
