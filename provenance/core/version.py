"""The version of this code, for manifests."""

from __future__ import annotations

import importlib.metadata
import subprocess

from provenance.core.settings import CHECKOUT


def code_version() -> str:
    """The package's version, followed in a checkout by the commit."""
    version = importlib.metadata.version("provenance")
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    return f"{version}+{git.stdout.strip()}" if git.returncode == 0 else version
