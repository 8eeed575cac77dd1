"""Installing what the client programs and the differential test need.

Knows which Debian packages and lock files there are; knows nothing of what the programs check.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import time

CLIENTS = pathlib.Path(__file__).resolve().parent.parent
ROOT = CLIENTS.parent
PYTHON = CLIENTS / ".venv/bin/python"
LAPIN_TARGET = ROOT / "target/clients"
LAPIN_PROGRAM = LAPIN_TARGET / "debug/lapin-client"


class Problem(Exception):
    """What stops a run before any program could; one line for the user."""


def command(arguments, **options):
    """Runs an installing command, showing its output only when it fails; returns that output."""
    done = subprocess.run(
        arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    if done.returncode != 0:
        sys.stderr.write(done.stdout)
        raise Problem(f"{' '.join(map(str, arguments))} failed with exit code {done.returncode}")
    return done.stdout


def debian_packages(wanted):
    """Installs the Debian packages whose program is missing; `wanted` maps programs to packages."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"  # Where daemons are, and a plain user does not look.
    packages = [package for program, package in wanted.items() if not shutil.which(program, path=path)]
    if not packages:
        return
    if os.geteuid() != 0:
        raise Problem(f"missing packages, install them as root: apt-get install {' '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    if not _package_lists_are_fresh():
        command(["apt-get", "update"])
    # Daemons of these packages are started by hand on free ports, never by the package.
    with _no_service_starts():
        command(["apt-get", "install", "-y", "--no-install-recommends", *packages], env=environment)


def _package_lists_are_fresh():
    """Whether `apt-get update` ran within the last hour and its lists are still there."""
    lists = pathlib.Path("/var/lib/apt/lists")
    touched = lists / "partial"
    return any(lists.glob("*_Packages*")) and touched.exists() and time.time() - touched.stat().st_mtime < 3600


@contextlib.contextmanager
def _no_service_starts():
    policy = pathlib.Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


def unless_stamped(stamp, inputs, install):
    """Calls `install` unless the stamp says it was done for exactly these input files."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    install()
    stamp.write_text(digest)


def install_python():
    """The pinned Python clients in clients/.venv."""
    requirements = CLIENTS / "requirements.txt"

    def install():
        command([sys.executable, "-m", "venv", "--clear", CLIENTS / ".venv"])
        command([PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements])

    unless_stamped(CLIENTS / ".venv/stamp", [requirements], install)


def published(package):
    """The directory of a pinned Python package as its authors published it, tests and all."""
    requirements = (CLIENTS / "requirements.txt").read_text()
    version = re.search(rf"^{re.escape(package)}==(\S+)$", requirements, re.MULTILINE)[1]
    kept = CLIENTS / ".venv/published"
    directory = kept / f"{package}-{version}"
    if not directory.exists():
        download = [PYTHON, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command([*download, "--no-binary", package, "--dest", kept, f"{package}=={version}"])
        with tarfile.open(kept / f"{package}-{version}.tar.gz") as archive:
            archive.extractall(kept / "unfinished", filter="data")
        (kept / "unfinished" / directory.name).rename(directory)
    return directory


def install_node():
    """The pinned Node client in clients/node/node_modules."""
    node = CLIENTS / "node"
    inputs = [node / "package.json", node / "package-lock.json"]

    def install():
        command(["npm", "ci", "--no-audit", "--no-fund"], cwd=node)

    unless_stamped(node / "node_modules/stamp", inputs, install)


def build_lapin():
    """Builds the Rust client program (cargo knows by itself whether there is anything to do)."""
    manifest = CLIENTS / "lapin/Cargo.toml"
    command(["cargo", "build", "--quiet", "--locked", "--manifest-path", manifest, "--target-dir", LAPIN_TARGET])


# The test programs that talk to the broker under test; in the others the broker is a thread of the test.
LAPIN_TESTS = (
    "ack_after_close",
    "channel_closed_by_broker",
    "conn_wrong_vhost",
    "connection",
    "connection_tasks",
    "publisher_confirms",
    "recovery_qos",
    "runtime_isolation",
    "tokio",
)


def published_lapin_tests():
    """The command that runs the tests of the published lapin to which clients/lapin is locked."""
    metadata = ["cargo", "metadata", "--quiet", "--locked", "--format-version=1"]
    packages = json.loads(command([*metadata, "--manifest-path", CLIENTS / "lapin/Cargo.toml"]))["packages"]
    manifest = next(package["manifest_path"] for package in packages if package["name"] == "lapin")
    cargo = ["cargo", "test", "--locked", "--no-fail-fast", "--manifest-path", manifest, "--target-dir", LAPIN_TARGET]
    features = ["--no-default-features", "--features=default-runtime"]  # As clients/lapin: no TLS to build.
    return [*cargo, *features, *(f"--test={test}" for test in LAPIN_TESTS)]


def build_published_lapin_tests():
    """Builds them, so that their run's time is their own."""
    command([*published_lapin_tests(), "--no-run", "--quiet"])
