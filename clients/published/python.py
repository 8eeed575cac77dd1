"""A Python package's own integration tests, as published with it: published/python.py PACKAGE.

They know no other broker than one with RabbitMQ's default user and virtual host. Tests that need not
pass are listed in deselected.toml.
"""

import os
import sys
import tomllib
import urllib.parse

import checks
import install
import pytest

SUITES = {"amqp": "t/integration/test_rmq.py", "kombu": "t/integration/test_py_amqp.py"}


class Deselected:
    """Applies the lists of deselected.toml to what pytest has collected."""

    def __init__(self, package):
        entries = tomllib.loads((install.CLIENTS / "published/deselected.toml").read_text())
        self.lists = {kind: [entry for entry in entries[kind] if entry["package"] == package] for kind in entries}

    def pytest_collection_modifyitems(self, config, items):
        for entry in self.lists["not-ours"]:
            dropped = self._fitting(entry, items)
            config.hook.pytest_deselected(items=dropped)
            items[:] = [item for item in items if item not in dropped]
        for entry in self.lists.get("not-yet", []):
            for item in self._fitting(entry, items):
                # Strict: a test that passes after all fails, with this reason.
                item.add_marker(pytest.mark.xfail(strict=True, reason=f"no longer needed in deselected.toml: {entry}"))

    def _fitting(self, entry, items):
        fitting = [item for item in items if entry["test"] in item.nodeid.removeprefix(item.location[0])]
        if not fitting:
            raise pytest.UsageError(f"no test fits this entry of deselected.toml: {entry}")
        return fitting


def main():
    package = sys.argv[1]
    broker = urllib.parse.urlsplit(checks.URI)
    if (broker.username, broker.password, broker.path) != ("guest", "guest", "/%2f"):
        sys.exit("FAIL these tests log in as guest to the virtual host /, and nothing else")
    os.environ |= {"RABBITMQ_HOST": broker.hostname, "RABBITMQ_5672_TCP": str(broker.port or 5672)}
    os.chdir(install.published(package))
    # Their marks are plugins' that are not installed, so nothing is run again until it passes.
    options = ["-q", "--tb=short", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestUnknownMarkWarning"]
    sys.exit(pytest.main([*options, SUITES[package]], plugins=[Deselected(package)]))


main()
