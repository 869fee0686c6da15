"""Every direct requirement of nights states a licence that allows commercial use, or stands in the document of production."""

import re
import tomllib
from importlib import metadata

import pytest

from provenance.core.settings import CHECKOUT, Settings
from provenance.corpus.rights.licences import classify
from provenance.corpus.rights.policy import read_policy

POLICY = read_policy(Settings().rights.policy)
REQUIRED = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["dependencies"]
NAMES = sorted(re.match(r"[\w.-]+", requirement)[0] for requirement in REQUIRED)
# Licences of packages whose metadata does not state one, as docs/production.md has them.
STATED = {"mlcroissant": "Apache-2.0", "saxonche": "MPL-2.0"}


def licences(name):
    """What a package states: its expression, else its classifiers, else the words of its field."""
    stated = metadata.metadata(name)
    classifiers = [line for line in stated.get_all("Classifier") or [] if line.startswith("License ::")]
    words = (stated.get("License") or "").split("\n")[0]
    return [text for text in (stated.get("License-Expression"), *classifiers, words) if text]


@pytest.mark.parametrize("name", NAMES)
def test_a_requirement_may_be_used_commercially(name):
    stated = licences(name)
    assert bool(stated) is (name not in STATED)
    assert "commercial" in {classify(text, POLICY).licence_class for text in [*stated, *filter(None, [STATED.get(name)])]}


def test_wheels_without_the_text_of_their_licence_are_named():
    paragraph = (CHECKOUT / "docs/production.md").read_text().split("**Licences of packages.**")[1].split("beancount")[0]
    without = set()
    for name in NAMES:
        stored = (str(file).partition(".dist-info/")[2] for file in metadata.distribution(name).files or [])
        if not any(re.search("licen[cs]e|copying|notice", file, re.IGNORECASE) for file in stored):
            without.add(name)
    assert set(re.findall(r"`([\w-]+)`\s+\(", paragraph)) == without
