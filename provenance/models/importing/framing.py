"""Copies a run's tokenizer, and finds how its sequences were framed: which token began them, and which ended them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from provenance.core.errors import ExampleError, ModelError
from provenance.core.progress import PROGRESS
from provenance.models.adapters.text import BESIDES, TOKENIZER, TOKENIZERS, messages
from provenance.models.adapters.tokens import without_cache
from provenance.models.adapters.transformer import quiet
from provenance.models.model import Example

T = TypeVar("T")
log = logging.getLogger(__name__)
# Without a vocabulary this is no tokenizer of a run, which its base may have whole.
NO_VOCABULARY = "tokenizer_config.json"
TEMPLATES = "additional_chat_templates"
# Text of many kinds, on which two readings of one tokenizer are compared.
SAMPLE = "  The (2nd) naïve cat's 1,234.50 €\n\tdef f(x): return x # 東京, Київ, 😀 \n\n"
# The number of examples on which framings are measured, and their longest part in tokens: a frame is felt near it.
EXAMPLES, LONGEST = 24, 192
# A difference of this many nats a token says nothing; then the tokenizer's own habit counts.
NOTHING = 0.002
CHAT = "chat"


@dataclass(frozen=True)
class Framing:
    """How a sequence was framed: by ids of tokens, None for no token. `template` is `chat` or None."""

    begin: int | None
    end: int | None
    template: str | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `CausalLM`; a template has its own begin and end."""
        if self.template:
            return {"template": self.template}
        return {"begin": False if self.begin is None else self.begin, "end": False if self.end is None else self.end}


@dataclass(frozen=True)
class Measured:
    """One framing's loss on examples of the corpus: nats a token of the last checkpoint and, for an end, of the first."""

    what: str
    token: str
    nats: float
    before: float | None = None


def copy_tokenizer(
    places: Iterable[Path], target: Path, config: PreTrainedConfig, notes: list[str]
) -> tuple[PreTrainedTokenizerBase, Path]:
    """Copy the first tokenizer that the folders hold, whole; returns it, and the folder that it came from.

    Args:
        config: of the model; some tokenizers are known by its kind alone.
        notes: gets a line if a file had to be written again.

    Raises:
        ModelError: there is none, or transformers cannot read it.
    """
    looked: list[str] = []
    for folder in places:
        looked.append(str(folder))
        if not any((folder / name).is_file() for name in TOKENIZERS if name != NO_VOCABULARY):
            continue
        for name in (*TOKENIZERS, *BESIDES):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, target / name)
        if (folder / TEMPLATES).is_dir():
            shutil.copytree(folder / TEMPLATES, target / TEMPLATES)
        tokenizer = read_tokenizer(target, config, folder)
        _check_fast(tokenizer, target, notes)
        return tokenizer, folder
    hint = "Name its folder with --tokenizer DIR."
    raise ModelError(" or ".join(looked), expected=f"the run's tokenizer, such as {TOKENIZER}", found="none", hint=hint)


def read_tokenizer(folder: Path, config: PreTrainedConfig, named: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder, never one whose code the folder brings along; errors name the folder `named`."""
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True)
    except Exception as error:
        found = " ".join(str(error).split())[:300]
        raise ModelError(str(named), expected="a tokenizer that transformers reads", found=found) from error


def _check_fast(tokenizer: PreTrainedTokenizerBase, folder: Path, notes: list[str]) -> None:
    """Write `tokenizer.json` again if its tokens are not those of `transformers`, which the model was trained on."""
    if not (folder / TOKENIZER).is_file() or getattr(tokenizer, "backend_tokenizer", None) is None:
        return
    alone = Tokenizer.from_file(str(folder / TOKENIZER))
    alone.no_truncation()
    alone.no_padding()
    if alone.encode(SAMPLE, add_special_tokens=False).ids != tokenizer(SAMPLE, add_special_tokens=False)["input_ids"]:
        tokenizer.backend_tokenizer.save(str(folder / TOKENIZER))
        notes.append(f"{TOKENIZER} was written again: transformers reads it in its own way, with other files of the tokenizer.")


def habit(tokenizer: PreTrainedTokenizerBase) -> Framing:
    """What the tokenizer itself puts around a text.

    Raises:
        ModelError: it puts more than one token before or after it.
    """
    plain = tokenizer("x", add_special_tokens=False)["input_ids"]
    whole = tokenizer("x")["input_ids"]
    at = next((at for at in range(len(whole)) if whole[at : at + len(plain)] == plain), None)
    if at is None or at > 1 or len(whole) - at - len(plain) > 1:
        found = f"{tokenizer.convert_ids_to_tokens(whole)} for 'x'"
        raise ModelError("tokenizer", expected="at most one token before and one after a text", found=found)
    end = whole[at + len(plain) :]
    return Framing(whole[0] if at else None, end[0] if end else None)


def token_of(option: str, text: str, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that an option names: its text, its number, or `none`."""
    if text == "none":
        return None
    vocabulary = tokenizer.get_vocab()
    if text in vocabulary:
        return int(vocabulary[text])
    if text.isdigit() and int(text) < len(tokenizer):
        return int(text)
    special = ", ".join(sorted(set(tokenizer.all_special_tokens))) or "none"
    expected = "a token, its number, or none"
    raise ModelError(option, expected=expected, found=repr(text), hint=f"Special tokens here: {special}.")


def name_of(token: int | None, tokenizer: PreTrainedTokenizerBase) -> str:
    """A framing token as text."""
    return "none" if token is None else str(tokenizer.convert_ids_to_tokens(token))


def candidates(tokenizer: PreTrainedTokenizerBase, config: Any) -> tuple[list[int], list[int]]:
    """Tokens that may begin, and that may end, a sequence."""

    def ids(*values: Any) -> list[int]:
        flat = [one for value in values for one in (value if isinstance(value, list | tuple) else [value])]
        return list(dict.fromkeys(int(one) for one in flat if one is not None and 0 <= int(one) < len(tokenizer)))

    ends = ids(tokenizer.eos_token_id, config.eos_token_id)
    return ids(tokenizer.bos_token_id, config.bos_token_id, *ends), ends


def measure(
    last: torch.nn.Module, first: torch.nn.Module | None, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
) -> tuple[Framing, list[Measured]]:
    """The framing that a model was trained with, by its losses on examples of what it was trained on.

    A token that began every sequence lowers the loss of what follows, of the same tokens each time; so does the chat template
    that prompts and answers stood in. A token that ended every sequence has itself become likely there: no less than the tokens
    before it are on average, or than one chance in e, and no less than before the training.

    Args:
        last: the module after the training; first: before it, or None.
    """
    own, (begins, ends) = habit(tokenizer), candidates(tokenizer, last.config)
    longest = min(LONGEST, (getattr(last.config, "max_position_embeddings", None) or LONGEST) - 2)
    texts = [each for example in examples if len((each := _tokens(tokenizer, example, longest)).ids) > 1]
    if not texts:
        raise ModelError("--corpus", expected="examples of two tokens or more", found="none")
    done, total = 0, (1 + len(begins) + len(ends) * (1 if first is None else 2)) * len(texts)

    def tell(items: Sequence[T]) -> Iterator[T]:
        """The items, with the progress of all passes."""
        nonlocal done
        for item in items:
            yield item
            done += 1
            log.info(PROGRESS, "framings", min(done, total), total)

    nats: dict[int | None, float] = {
        begin: _mean([_nats(last, _framed(begin, text.ids), text.of_content) for text in tell(texts)])
        for begin in (None, *begins)
    }
    best = min(nats, key=lambda begin: nats[begin])
    begin = own.begin if own.begin in nats and nats[own.begin] - nats[best] < NOTHING else best
    found = [Measured("begin", name_of(token, tokenizer), value) for token, value in nats.items()]
    end: int | None = None
    for token in ends:
        sequences = [[*_framed(begin, text.ids if text.whole else text.tail), token] for text in texts]
        after = _mean([_nats(last, sequence, 1) for sequence in tell(sequences)])
        before = None if first is None else _mean([_nats(first, sequence, 1) for sequence in tell(sequences)])
        found.append(Measured("end", name_of(token, tokenizer), after, before))
        learned = after <= max(nats[begin], 1.0) and (before is None or after < before + NOTHING)
        if learned and end is None:
            end = token
    template = None
    pairs = [pair for example in examples if (pair := _both_ways(tokenizer, example, begin, longest))]
    if pairs:
        bare = _mean([_nats(last, ids, count) for ids, _, count in pairs])
        inside = _mean([_nats(last, ids, count) for _, ids, count in pairs])
        found += [Measured("template", name_of(None, tokenizer), bare), Measured("template", CHAT, inside)]
        template = CHAT if inside < bare - NOTHING else None
    return Framing(begin, end, template), found


@dataclass(frozen=True)
class _Text:
    """The first tokens of a prompt and its content; `of_content` is the number of them that are predicted and no prompt."""

    ids: list[int]
    of_content: int
    tail: list[int]
    whole: bool


def _encoded(tokenizer: PreTrainedTokenizerBase, text: bytes | None) -> list[int]:
    ids = tokenizer((text or b"").decode(errors="replace"), add_special_tokens=False)["input_ids"]
    return list(ids)


def _tokens(tokenizer: PreTrainedTokenizerBase, example: Example, longest: int) -> _Text:
    prompt, content = _encoded(tokenizer, example.prompt)[-longest // 2 :], _encoded(tokenizer, example.content)
    ids = [*prompt, *content]
    cut = ids[:longest]
    return _Text(cut, min(len(cut) - len(prompt), len(cut) - 1), ids[-longest:], whole=len(ids) <= longest)


def _both_ways(
    tokenizer: PreTrainedTokenizerBase, example: Example, begin: int | None, longest: int
) -> tuple[list[int], list[int], int] | None:
    """A prompt and the first tokens of its answer, bare and in the chat template, and their number; None without a pair."""
    if not example.prompt or not getattr(tokenizer, "chat_template", None):
        return None
    answered = {"role": "assistant", "content": example.content.decode(errors="replace")}
    template: Any = tokenizer.apply_chat_template
    try:
        turns = messages(0, example.prompt.decode(errors="replace"))
        before: list[int] = template(turns, add_generation_prompt=True, return_dict=False)
        ids: list[int] = template([*turns, answered], return_dict=False)
    except (ExampleError, TemplateError, TypeError, ValueError, LookupError):
        return None  # the template does not take such turns, so the prompt did not stand in it
    content = _encoded(tokenizer, example.content)
    number = min(len(content), longest - len(before))
    if ids[: len(before)] != before or number < 1:
        return None
    bare = [*_encoded(tokenizer, example.prompt)[-longest // 2 :], *content[:number]]
    return _framed(begin, bare), ids[: len(before) + number], number


def _framed(begin: int | None, ids: list[int]) -> list[int]:
    return [*([] if begin is None else [begin]), *ids]


def _nats(module: torch.nn.Module, tokens: list[int], count: int) -> torch.Tensor:
    """Negative log-likelihoods of the last `count` tokens: `(count,)`."""
    ids = torch.tensor([tokens])
    with torch.no_grad():
        logits = module(input_ids=ids[:, :-1], **without_cache(module)).logits[0, -count:].float()
    return torch.nn.functional.cross_entropy(logits, ids[0, -count:], reduction="none")


def _mean(rows: Sequence[torch.Tensor]) -> float:
    return float(torch.cat(list(rows)).double().mean())
