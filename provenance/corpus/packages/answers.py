"""Collect a corpus of questions and answers: what installed distributions document of their classes and functions.

The prompt is a question made of a name ("What does scipy.signal.welch do?"), the content is the prose of its docstring. Owners
and licences come from the distributions' metadata. Sources are parsed, never imported; the distributions' bytes determine the
choice.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution
from itertools import islice
from pathlib import Path, PurePosixPath

from provenance.core.errors import ContractError
from provenance.corpus.delivery import Corpus, equal_claims, make_corpus
from provenance.corpus.packages.distributions import installed, owner_id, rights_in

# Ten subjects: signals, graphs, databases, plots, algebra, typefaces, tables, networks, music, identifiers.
DISTRIBUTIONS = (
    "scipy", "networkx", "sqlalchemy", "matplotlib", "sympy", "fonttools", "pandas", "tornado", "music21", "python-stdnum",
)  # fmt: skip
CHARACTERS = (120, 320)
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


def _answers(distribution: Distribution) -> Iterator[dict[str, object]]:
    """Answers, file by file: at most three of a file, none twice."""
    name = f"{distribution.metadata['Name']}=={distribution.version}"
    paths = [PurePosixPath(str(path)) for path in distribution.files or [] if str(path).endswith(".py")]
    seen: set[str] = set()
    for path in sorted(paths, key=lambda path: hashlib.sha256(str(path).encode()).digest()):
        located = Path(str(distribution.locate_file(path)))
        if "test" in str(path) or not located.is_file():
            continue
        try:
            tree = ast.parse(located.read_bytes())
        except (SyntaxError, ValueError):
            continue
        module = ".".join(part for part in path.with_suffix("").parts if part != "__init__")
        found = [
            {
                "work_id": f"{name}/{path}",
                "position": line,
                "prompt": question.encode(),
                "content": text.encode(),
                "source_uri": f"pkg:pypi/{name.replace('==', '@')}#{path}",
            }
            for line, question, text in _documented(tree, module)
            if not (text in seen or seen.add(text))  # type: ignore[func-returns-value]
        ]
        yield from sorted(found, key=lambda answer: hashlib.sha256(answer["content"]).digest())[:3]  # type: ignore[arg-type]


def _documented(node: ast.AST, path: str) -> Iterator[tuple[int, str, str]]:
    """Line, question and answer of each public class and function with a docstring of the right length."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.ClassDef) or child.name.startswith("_"):
            continue
        name = f"{path}.{child.name}"
        text = prose(ast.get_docstring(child) or "")
        if CHARACTERS[0] <= len(text) <= CHARACTERS[1]:
            yield child.lineno, f"What is {name}?" if isinstance(child, ast.ClassDef) else f"What does {name} do?", text
        if isinstance(child, ast.ClassDef):
            yield from _documented(child, name)


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
