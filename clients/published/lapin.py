"""lapin's own integration tests, as published with it, in the version that clients/lapin is locked to."""

import os
import tomllib

import checks
import install

deselected = tomllib.loads((install.CLIENTS / "published/deselected.toml").read_text())
skips = [f"--skip={entry['test']}" for entry in deselected["not-ours"] if entry["package"] == "lapin"]
command = [*install.published_lapin_tests(), "--", *skips]
os.execvpe(command[0], command, {**os.environ, "AMQP_ADDR": checks.URI})
