"""What the documents say is so."""

import re

import pytest
from typer.main import get_command

from provenance.core.contracts import markdown
from tasks.cli import app
from tasks.settings import CHECKOUT

README = (CHECKOUT / "README.md").read_text()
ARCHITECTURE = (CHECKOUT / "ARCHITECTURE.md").read_text()
MAKEFILE = (CHECKOUT / "Makefile").read_text()


def test_the_table_of_contracts_is_the_code_s():
    assert markdown() in ARCHITECTURE, "paste the output of provenance.core.contracts.markdown()"


@pytest.mark.parametrize("command", sorted(get_command(app).commands))
def test_the_readme_names_every_command(command):
    assert f"provenance {command}" in README


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, flags=re.MULTILINE))
    for document in (README, ARCHITECTURE):
        assert set(re.findall(r"`?make ([a-z]+(?:-[a-z]+)*)", document)) <= targets


def test_every_stage_of_the_night_is_documented():
    for task in re.findall(r'task_id="([a-z._]+)"', (CHECKOUT / "dags/nightly_payouts.py").read_text()):
        assert f"`{task}`" in ARCHITECTURE


def test_local_settings_explain_every_key():
    for line in (CHECKOUT / "infra/settings/local.toml").read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            assert "#" in line or line.split(" = ")[0] in {"url", "sparse_bits", "seed", "batch_size", "folder"}, line


def test_documents_leave_no_placeholder():
    assert "@@" not in README + ARCHITECTURE
