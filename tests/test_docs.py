"""What the documents say is so."""

import re
from functools import cache
from importlib import import_module

import pytest
from typer.main import get_command

from provenance.core.settings import CHECKOUT
from provenance.core.tables import markdown
from tasks.cli import app

DOCS = sorted((CHECKOUT / "docs").glob("*.md"))
DOCUMENTS = [CHECKOUT / "README.md", CHECKOUT / "ARCHITECTURE.md", CHECKOUT / "CONTRIBUTING.md", *DOCS]
README = (CHECKOUT / "README.md").read_text()
ARCHITECTURE = (CHECKOUT / "ARCHITECTURE.md").read_text()
COMMANDS = (CHECKOUT / "docs/commands.md").read_text()
TABLES = (CHECKOUT / "docs/tables.md").read_text()
MAKEFILE = (CHECKOUT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, flags=re.MULTILINE))
BEGIN, END = "<!-- contracts: begin -->\n", "\n<!-- contracts: end -->\n"


def commands(group=None, *names):
    """Every command with its groups before it, such as `rights sources list`."""
    for name, command in sorted((group or get_command(app)).commands.items()):
        if hasattr(command, "commands"):
            yield from commands(command, *names, name)
        else:
            yield " ".join((*names, name))


@cache
def prose(path):
    """A document without its blocks of code, whose lines are indented or between fences."""
    fenced = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^ {4}.*$", "", fenced, flags=re.MULTILINE)


@cache
def anchors(path):
    """The names that GitHub gives the headings of a document."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(path), flags=re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = sum(other == name or re.fullmatch(rf"{re.escape(name)}-\d+", other) is not None for other in found)
        found.add(f"{name}-{number}" if number else name)
    return found


def links(path):
    """The file and the anchor of each link that stays within the checkout."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if not re.match(r"[a-z]+:", target):
            file, _, anchor = target.partition("#")
            yield target, (path.parent / file).resolve() if file else path, anchor


def test_the_table_of_contracts_is_the_code_s():
    assert TABLES.count(BEGIN) == TABLES.count(END) == 1
    table = TABLES.split(BEGIN)[1].split(END)[0]
    assert table == markdown(), "paste the output of provenance.core.tables.markdown()"


@pytest.mark.parametrize("command", list(commands()))
def test_the_page_of_commands_names_every_command(command):
    assert re.search(rf"^\| `provenance {command}[ `]", COMMANDS, flags=re.MULTILINE)


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_the_page_of_commands_names_every_make_target(target):
    assert f"| `make {target}` |" in COMMANDS


def test_the_page_of_commands_names_no_other():
    named = set(re.findall(r"^\| `provenance ([a-z -]+?)(?: [A-Z\[][^`]*)?`", COMMANDS, flags=re.MULTILINE))
    assert named == set(commands())


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_make_target_that_is_named_exists(path):
    text = path.read_text()
    named = set(re.findall(r"(?:`|^ {4}(?:[\w/.=]+ )*)make ([a-z]+(?:-[a-z]+)*)", text, flags=re.MULTILINE))
    if path.parent == CHECKOUT:
        named |= set(re.findall(r"`?make ([a-z]+(?:-[a-z]+)*)", text))
    assert named <= TARGETS


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_that_is_named_exists(path):
    known = {tuple(command.split()) for command in commands()}
    groups = {command[:length] for command in known for length in range(1, len(command))}
    for words in re.findall(
        r"(?:`|^ {4}(?:\.venv/bin/)?)provenance ((?:[a-z][a-z-]*)(?: [a-z][a-z-]*)*)", path.read_text(), re.MULTILINE
    ):
        said = tuple(words.split())
        assert said in groups or any(said[:length] in known for length in range(1, len(said) + 1)), words


def test_every_stage_of_the_night_is_documented():
    for task in re.findall(r'task_id="([a-z._]+)"', (CHECKOUT / "dags/nightly_payouts.py").read_text()):
        assert f"`{task}`" in ARCHITECTURE


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path):
    for target, file, anchor in links(path):
        assert file.exists(), target
        assert file.is_relative_to(CHECKOUT), target
        if anchor:
            assert anchor in anchors(file), target


@pytest.mark.parametrize("path", [path for path in DOCS if path.name != "index.md"], ids=lambda path: path.name)
def test_the_index_lists_every_page(path):
    assert path in {file for _, file, _ in links(CHECKOUT / "docs/index.md")}


@pytest.mark.parametrize(("path", "most"), [("README.md", 140), ("ARCHITECTURE.md", 170)])
def test_what_everybody_reads_is_short(path, most):
    assert len((CHECKOUT / path).read_text().splitlines()) <= most


def test_the_glossary_is_short():
    table = ARCHITECTURE.split("\n## Glossary\n")[1].split("\n## ")[0]
    assert 0 < len(re.findall(r"^\| ", table, flags=re.MULTILINE)) - 1 <= 30


def test_local_settings_explain_every_key():
    for line in (CHECKOUT / "infra/settings/local.toml").read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            assert "#" in line or line.split(" = ")[0] in {"url", "sparse_bits", "seed", "batch_size", "folder"}, line


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_leave_no_placeholder(path):
    assert "@@" not in path.read_text()


def test_the_ways_of_an_example_and_of_a_cent_pass_functions_that_are_there():
    ways = [part for part in ARCHITECTURE.split("\n\n") if part.startswith(("**An example**", "**A cent of revenue**"))]
    names = [name for way in ways for name in re.findall(r"`((?:\w+\.)+\w+)`", way)]
    assert len(names) > 20
    for name in names:
        module, _, function = name.rpartition(".")
        assert callable(getattr(import_module(f"provenance.{module}"), function)), name
