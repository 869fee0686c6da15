"""Pictures are as new as what they show, and documents show them all."""

import re

import pytest

from infra import pictures
from provenance.core.settings import CHECKOUT

DOCUMENTS = [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/*.md")]


def shown():
    """The paths of the pictures that documents show."""
    for document in DOCUMENTS:
        for alternative, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", document.read_text()):
            assert len(alternative) > 20, f"{document.name}: {target} is not described"
            yield (document.parent / target).resolve()


def test_no_picture_is_older_than_what_it_shows():
    assert pictures.outdated() == [], "make pictures"


def test_documents_show_pictures_that_are_there_and_every_one_that_is_made():
    found = set(shown())
    assert all(path.is_file() for path in found)
    assert {pictures.FOLDER / name for name in (*pictures.SHOTS, *pictures.FIGURES)} <= found


def test_another_template_or_another_number_makes_a_picture_old(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "CHECKOUT", tmp_path)
    for shot in pictures.SHOTS.values():
        for file in shot.shows:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_bytes((CHECKOUT / file).read_bytes())
    evidence = tmp_path / "evidence.md"
    evidence.write_text(pictures.EVIDENCE.read_text())
    monkeypatch.setattr(pictures, "EVIDENCE", evidence)
    assert pictures.outdated() == []
    (tmp_path / "infra/page/static/credits.css").write_text("b {}")
    assert pictures.outdated() == ["output.png"]
    evidence.write_text(evidence.read_text().replace("+5.8 (5.8)", "+6.8 (5.8)"))
    assert pictures.outdated() == ["output.png", "attacks.svg"]


@pytest.mark.parametrize("row", [0, -1])
def test_the_figure_of_attacks_has_the_numbers_of_the_table(row):
    rules, rows = pictures.attack_table(pictures.EVIDENCE.read_text())
    assert rules == list(pictures.RULES)
    name, gains, taught = rows[row]
    wanted = {
        0: ("splits into six identities, at random", [0, -0.3, -0.6, 0, 0], None),
        -1: ("twenty new owners of nonsense, together", [10.3, 9.0, 8.6, 2.2, 17.7], 10.9),
    }
    assert (name, gains, taught) == wanted[row]
    assert name in pictures.attacks().decode()
