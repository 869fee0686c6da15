"""Collect a corpus of questions and answers: what installed distributions document of their classes and functions.

The prompt is a question made of a name ("What does scipy.signal.welch do?"), the content is the prose of its docstring, or the
beginning of it. Owners and licences come from the distributions' metadata. Sources are parsed, never imported; the
distributions' bytes determine the choice.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import Distribution
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from provenance.core.errors import ContractError
from provenance.corpus.delivery import Corpus, equal_claims, make_corpus
from provenance.corpus.packages.distributions import assertions_of, installed, owner_id, rights_in

# Ten subjects: signals, graphs, databases, plots, algebra, typefaces, tables, networks, music, identifiers.
DISTRIBUTIONS = (
    "scipy", "networkx", "sqlalchemy", "matplotlib", "sympy", "fonttools", "pandas", "tornado", "music21", "python-stdnum",
)  # fmt: skip
CHARACTERS = (120, 320)
# Subjects that use the same words for different things: graphs, databases, charts, mathematics, typefaces, tables, images, the
# web, languages and source code. The last one names no author, so that what it earns is kept in escrow.
SUBJECTS = (
    "networkx", "sqlalchemy", "matplotlib", "sympy", "fonttools", "pandas", "pillow", "tornado", "babel", "libcst",
)  # fmt: skip
SHORT = (40, 150)  # characters of a short answer
ENOUGH = 70  # characters after which a short answer needs no further sentence
HELD_OUT = 8  # one file in so many is held out
# The lines after which a docstring is no longer prose: fields, directives, sessions, headings.
NO_PROSE = re.compile(
    r"\s*(:\w|\.\. |>>>|[-=~^\"*]{3,}|@\w"
    r"|(Parameters|Args|Arguments|Returns?|Raises|Yields|Attributes|Examples?|Notes?|See Also|References|Usage|Warnings?):?$)"
)
MARKUP = (
    (re.compile(r":[\w:]+:`~?([^`<]+?)(?:\s*<[^>]*>)?`"), r"\1"),
    (re.compile(r"``?([^`]+)``?_*"), r"\1"),
    (re.compile(r"\*\*?([^*\n]+)\*\*?"), r"\1"),
)
SENTENCES = re.compile(r"[A-Z][A-Za-z0-9 ,.;:()'\"/_=+-]*\.")


def collect(names: Sequence[str] = DISTRIBUTIONS, *, examples_each: int, held_out_each: int) -> Corpus:
    """Collect `examples_each` answers of each distribution for training, and `held_out_each` of other files that are held out.

    A work is a source file. Files and answers are ordered by digests, so that more of them do not change the first.

    Raises:
        ContractError: a distribution is not installed, names no owner or licence, or has too few answers.
    """
    rows: list[dict[str, object]] = []
    claims: list[dict[str, object]] = []
    owners: dict[str, str] = {}
    for name in names:
        distribution = installed(name)
        rights = rights_in(distribution.metadata) if distribution else None
        if distribution is None or rights is None or rights.unmatched_reason:
            expected, found = "installed, with an owner and a licence", rights.unmatched_reason if rights else "not installed"
            raise ContractError(f"distribution {name}", expected=expected, found=found or "", hint="Run make workloads.")
        # What is held out comes first, so that it does not depend on `examples_each`.
        stream = _answers(distribution)
        with _without_collections():
            held_out = list(islice(stream, held_out_each))
            works = {answer["work_id"] for answer in held_out}
            train = list(islice((answer for answer in stream if answer["work_id"] not in works), examples_each))
        if len(train) < examples_each:
            expected = f"{examples_each} answers, and {held_out_each} of other files"
            raise ContractError(f"distribution {name}", expected=expected, found=f"{len(train)} and {len(held_out)}")
        chosen = [answer | {"split": "train"} for answer in train] + [answer | {"split": "held_out"} for answer in held_out]
        chosen = [answer | {"modality": "text", "licence_spdx": rights.licence_spdx} for answer in chosen]
        owner = owner_id(rights.owners[0])
        owners[owner] = rights.owners[0]
        rows += chosen
        claims += equal_claims(chosen, [owner], rights.evidence)
    return make_corpus(rows, claims, owners)


def collect_names(names: Sequence[str] = SUBJECTS, *, examples_each: int, held_out_each: int) -> Corpus:
    """Collect short answers to questions about names alone: "What does union do?" has answers of several distributions.

    As many as half of the examples of a distribution are about names that others use, too. What is held out, at most
    `held_out_each` of a distribution, are other answers to questions of the training, from other files. A distribution that
    names no owner or licence counts as the work of one unknown owner.

    Raises:
        ContractError: a distribution is not installed, or has too few answers.
    """
    distributions = {name: installed(name) for name in names}
    if missing := next((name for name, found in distributions.items() if found is None), None):
        raise ContractError(f"distribution {missing}", expected="installed", found="not installed", hint="Run make setup.")
    with _without_collections():
        found = {name: list(_short_answers(distribution)) for name, distribution in distributions.items() if distribution}
    users = Counter(answer["name"] for answers in found.values() for answer in answers if answer["split"] == "train")
    chosen: dict[str, list[dict[str, Any]]] = {}
    for name, answers in found.items():
        order = sorted(answers, key=lambda answer: (-users[answer["name"]], hashlib.sha256(answer["prompt"]).digest()))
        train = [answer for answer in order if answer["split"] == "train"]
        shared = [answer for answer in train if users[answer["name"]] > 1][: examples_each // 2]
        own = [answer for answer in train if users[answer["name"]] == 1][: examples_each - len(shared)]
        if len(shared) + len(own) < examples_each:
            found_here = f"{len(shared) + len(own)}"
            raise ContractError(f"distribution {name}", expected=f"{examples_each} short answers", found=found_here)
        chosen[name] = shared + own
    asked = {answer["prompt"] for answers in chosen.values() for answer in answers}
    rows: list[dict[str, object]] = []
    claims: list[dict[str, object]] = []
    assertions: list[dict[str, object]] = []
    owners: dict[str, str] = {}
    for name, distribution in distributions.items():
        assert distribution is not None
        other = [answer for answer in found[name] if answer["split"] == "held_out" and answer["prompt"] in asked]
        rights = rights_in(distribution.metadata)
        common = {
            "modality": "text",
            "licence_spdx": rights.licence_spdx,
            "unmatched_reason": rights.unmatched_reason,
            "owner_id": f"unmatched-{owner_id(name)}" if rights.unmatched_reason else None,
        }
        own_rows = [answer | common for answer in chosen[name] + other[:held_out_each]]
        rows += [{key: value for key, value in row.items() if key != "name"} for row in own_rows]
        assertions += assertions_of(distribution, sorted({str(row["work_id"]) for row in own_rows}))
        if rights.unmatched_reason is None:
            by_id = {owner_id(owner): owner for owner in rights.owners}
            owners |= by_id
            claims += equal_claims(own_rows, list(by_id), rights.evidence)
    return make_corpus(rows, claims, owners, assertions)


@contextmanager
def _without_collections() -> Iterator[None]:
    """Collect no garbage: syntax trees leave none, and looking through them takes longer than parsing."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _short_answers(distribution: Distribution) -> Iterator[dict[str, Any]]:
    """The first answer about each name, with the name; one file in `HELD_OUT` is held out."""
    seen: set[str] = set()
    for path, work, tree in _files(distribution):
        split = "held_out" if hashlib.sha256(str(path).encode()).digest()[-1] % HELD_OUT == 0 else "train"
        for line, kind, dotted, text in _documented(tree, ""):
            name, short = dotted.rpartition(".")[2], _beginning(text)
            if SHORT[0] <= len(short) <= SHORT[1] and not {name, short} & seen:
                seen |= {name, short}
                prompt = _question(kind, name).encode()
                yield work | {"position": line, "prompt": prompt, "content": short.encode(), "name": name, "split": split}


def _beginning(text: str) -> str:
    """As many sentences as an answer needs to be of some length."""
    sentences = re.split(r"(?<=[a-z)]\.)\s", text)
    answer = sentences[0]
    for sentence in sentences[1:]:
        if len(answer) >= ENOUGH:
            break
        answer = f"{answer} {sentence}"
    return answer


def _files(distribution: Distribution) -> Iterator[tuple[PurePosixPath, dict[str, Any], ast.Module]]:
    """Path, work and source of each file but tests, in the order of digests of their paths."""
    name = f"{distribution.metadata['Name']}=={distribution.version}"
    paths = [PurePosixPath(str(path)) for path in distribution.files or [] if str(path).endswith(".py")]
    for path in sorted(paths, key=lambda path: hashlib.sha256(str(path).encode()).digest()):
        located = Path(str(distribution.locate_file(path)))
        if "test" in str(path) or not located.is_file():
            continue
        try:
            tree = ast.parse(located.read_bytes())
        except (SyntaxError, ValueError):
            continue
        yield path, {"work_id": f"{name}/{path}", "source_uri": f"pkg:pypi/{name.replace('==', '@')}#{path}"}, tree


def _answers(distribution: Distribution) -> Iterator[dict[str, object]]:
    """Answers, file by file: at most three of a file, none twice."""
    seen: set[str] = set()
    for path, work, tree in _files(distribution):
        module = ".".join(part for part in path.with_suffix("").parts if part != "__init__")
        found = [
            work | {"position": line, "prompt": _question(kind, name).encode(), "content": text.encode()}
            for line, kind, name, text in _documented(tree, module)
            if CHARACTERS[0] <= len(text) <= CHARACTERS[1] and not (text in seen or seen.add(text))  # type: ignore[func-returns-value]
        ]
        yield from sorted(found, key=lambda answer: hashlib.sha256(answer["content"]).digest())[:3]


def _documented(node: ast.AST, path: str) -> Iterator[tuple[int, type[ast.AST], str, str]]:
    """Line, kind, dotted name and prose of each public class and function."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.ClassDef) or child.name.startswith("_"):
            continue
        name = f"{path}.{child.name}"
        yield child.lineno, type(child), name, prose(ast.get_docstring(child) or "")
        if isinstance(child, ast.ClassDef):
            yield from _documented(child, name)


def _question(kind: type[ast.AST], name: str) -> str:
    return f"What is {name}?" if kind is ast.ClassDef else f"What does {name} do?"


def prose(docstring: str) -> str:
    """The first paragraphs of whole sentences, as many as fit, without markup and line ends."""
    lines: list[str] = []
    for line in docstring.splitlines():
        if NO_PROSE.match(line.rstrip()):
            break
        lines.append(line)
    text = "\n".join(lines)
    for pattern, replacement in MARKUP:
        text = pattern.sub(replacement, text)
    answer = ""
    for paragraph in re.split(r"\n\s*\n", text):
        words = " ".join(paragraph.split())
        if not SENTENCES.fullmatch(words) or len(answer) + 1 + len(words) > CHARACTERS[1]:
            break
        answer = f"{answer} {words}".strip()
    return answer
