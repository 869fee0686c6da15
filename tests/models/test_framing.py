"""Sequences are framed, cut and conditioned as models were trained; losses are held against those of transformers."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, GPT2Config, PreTrainedTokenizerFast

from provenance.core.errors import ExampleError, ModelError
from provenance.features.gradients import gradient_features
from provenance.features.projection import Projection
from provenance.models.adapters.causal_lm import CausalLM
from provenance.models.adapters.event_sequence import EventSequence
from provenance.models.adapters.seq2seq_lm import Seq2SeqLM
from provenance.models.model import Example, all_losses, example_losses, read_model

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
BEGIN, END, TURN, TURN_END = range(4)
CHATML = (
    "{% for message in messages %}{% if message.role not in ['system', 'user', 'assistant'] %}{{ raise_exception('role') }}"
    "{% endif %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXTS = ["what is a dog?", "a dog is an animal", "is it?", "it is, as cats are animals too"]


def tokenizer():
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(TEXTS * 3, trainer)
    return made


def save_tokenizer(folder, template=CHATML):
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer(), bos_token="<s>", eos_token="<|im_end|>", pad_token="</s>")
    wrapped.chat_template = template
    wrapped.save_pretrained(folder)


@pytest.fixture
def folder(tmp_path):
    config = GPT2Config(vocab_size=300, n_embd=8, n_layer=1, n_head=2, n_positions=48, bos_token_id=BEGIN, eos_token_id=END)
    config.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    return tmp_path


def by_transformers(module, ids, given):
    """The loss of the tokens after the first `given`, as a fine-tune with labels has it."""
    ids = torch.tensor([ids])
    labels = ids.clone()
    labels[:, :given] = -100
    with torch.no_grad():
        return module(input_ids=ids, labels=labels).loss.item() * (labels[:, 1:] != -100).sum().item()


def by_hand(module, ids, given):
    """The same from the logits: the last token is only predicted, and needs no position."""
    with torch.no_grad():
        chances = module(input_ids=torch.tensor([ids[:-1]])).logits.log_softmax(-1)[0]
    return -sum(chances[at - 1, ids[at]].item() for at in range(max(1, given), len(ids)))


def of(adapter, module, *examples):
    with torch.no_grad():
        return example_losses(adapter, module, [Example(*example) for example in examples]).tolist()


@pytest.mark.parametrize(
    ("arguments", "before", "after"),
    [
        ({}, [BEGIN], []),
        ({"begin": False}, [], []),
        ({"begin": END, "end": END}, [END], [END]),
        ({"end": END}, [BEGIN], [END]),
        ({"begin": 0, "end": False}, [0], []),
    ],
)
def test_sequences_begin_and_end_as_stated(arguments, before, after, folder):
    adapter, tokens = CausalLM(folder, **arguments), tokenizer()
    module = adapter.module().eval()
    content, prompt = (tokens.encode(text).ids for text in (TEXTS[1], TEXTS[0]))
    alone = by_transformers(module, before + content + after, len(before))
    asked = by_transformers(module, before + prompt + content + after, len(before) + len(prompt))
    examples = [(TEXTS[1].encode(),), (TEXTS[1].encode(), TEXTS[0].encode())]
    assert of(adapter, module, *examples) == pytest.approx([alone, asked], rel=1e-5)
    assert {name: adapter.arguments[name] for name in arguments} == arguments


def test_no_token_has_parts_of_prompt_and_content(folder):
    adapter, tokens = CausalLM(folder), tokenizer()
    assert tokens.encode("a dog is").ids != tokens.encode("a d").ids + tokens.encode("og is").ids
    batch = adapter.collate([b"og is"], [b"a d"])
    assert batch.ids[0].tolist() == [BEGIN, *tokens.encode("a d").ids, *tokens.encode("og is").ids]
    assert batch.terms == len(tokens.encode("og is").ids)


def test_a_prompt_that_is_no_text_is_named(folder):
    with pytest.raises(ExampleError, match="example 1 of the batch: prompt: expected UTF-8, which the tokenizer reads"):
        CausalLM(folder).collate([b"a", b"b"], [None, b"\xff"])


MESSAGES = [{"role": "system", "content": "be short"}, {"role": "user", "content": TEXTS[0]}]


@pytest.mark.parametrize("prompt", [TEXTS[0], json.dumps(MESSAGES), "[1, 2] is a list", ""])
def test_the_answer_of_a_chat_alone_has_a_loss_with_the_end_of_its_turn(prompt, folder):
    adapter, tokens = CausalLM(folder, template="chat"), tokenizer()
    module = adapter.module().eval()
    turns = MESSAGES if prompt.startswith("[{") else [{"role": "user", "content": prompt}]
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    answered = [*turns, {"role": "assistant", "content": "an animal"}]
    asked = theirs.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    whole = theirs.apply_chat_template(answered)["input_ids"]
    expected = by_transformers(module, whole, len(asked))
    assert of(adapter, module, (b"an animal", prompt.encode())) == pytest.approx([expected], rel=1e-5)
    batch = adapter.collate([b"an animal"], [prompt.encode()])
    has_loss = batch.targets[batch.targets != -100].tolist()
    assert has_loss == [*tokens.encode("an animal").ids, TURN_END, *tokens.encode("\n").ids]


def test_a_continuation_follows_its_whole_prompt_beside_shorter_ones(folder):
    adapter = CausalLM(folder)
    module = adapter.module().eval()
    prompts = [b"is it?", b"what is a dog?", b"a dog is it"]
    together = adapter.complete(module, prompts, length=6, temperature=1e-4, seed=1)
    alone = [adapter.complete(module, [prompt], length=6, temperature=1e-4, seed=1)[0] for prompt in prompts]
    assert together == alone
    assert len(set(map(len, adapter.encode(prompts)))) > 1


def test_a_chat_is_answered_up_to_the_end_of_the_turn(folder):
    adapter = CausalLM(folder, template="chat")
    module = adapter.module().eval()
    answers = adapter.complete(module, [b"is it?", b"what is a dog?"], length=5, temperature=1.0, seed=1)
    assert len(answers) == 2
    module.generation_config.suppress_tokens = [token for token in range(300) if token != TURN_END]
    assert adapter.complete(module, [b"is it?"], length=5, temperature=1.0, seed=1) == [b""]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (None, r"example 0 of the batch: expected a prompt, the turns that the content answers, .*found none"),
        (b"\xff", r"example 0 of the batch: prompt: expected UTF-8"),
        (
            json.dumps([{"role": "poet", "content": "x"}]).encode(),
            r"expected messages that the chat template takes, found Templ",
        ),
        (
            json.dumps([*MESSAGES, {"role": "assistant", "content": "x"}]).encode(),
            r"prompt: expected messages before the answer, found an answer of the assistant",
        ),
    ],
)
def test_what_is_no_chat_is_refused(prompt, message, folder):
    with pytest.raises(ExampleError, match=message):
        CausalLM(folder, template="chat").collate([b"an answer"], [prompt])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"begin": 300}, r"begin: expected the number of a token, below 300, or false for none, found 300"),
        ({"end": True}, r"end: expected the number of a token, below 300, or false for none, found True"),
        ({"template": "alpaca"}, r"template: expected 'chat', found 'alpaca'"),
        ({"template": "chat", "begin": 1}, r"template: expected no begin or end beside it, .* found begin = 1, end = None"),
        ({"long": "truncate"}, r"long: expected refuse or cut, found 'truncate'"),
        ({"bytes": True}, r"bytes: expected no tokenizer beside it, found one in"),
        ({"context": 49}, r"context: expected 1 to 48, the positions in config.json, found 49"),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, message, folder):
    with pytest.raises(ModelError, match=message):
        CausalLM(folder, **arguments)


def test_a_template_that_does_not_end_with_the_answer_is_refused(folder):
    save_tokenizer(folder, "{{ messages[-1].content }}{{ '?' if add_generation_prompt }}")
    with pytest.raises(ExampleError, match="expected a chat template whose answer follows the text that asks for it"):
        CausalLM(folder, template="chat").collate([b"an answer"], [b"a question"])
    save_tokenizer(folder, None)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="template: expected a tokenizer with a chat template, found one without a template"):
        CausalLM(folder, template="chat")


def test_a_tokenizer_of_any_kind_gives_the_same_tokens(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(ModelError, match=r"expected a tokenizer: tokenizer.json, .* found none, and 300 tokens.*bytes = true"):
        CausalLM(other)
    assert CausalLM(other, bytes=True).unit == "bytes"
    tokenizer().model.save(str(other))
    (other / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>"}))
    contents = [*(text.encode() for text in TEXTS), "  spaces\n\nand ünïcode 😀".encode()]
    ours, theirs = CausalLM(folder), CausalLM(other)
    assert theirs.encode(contents) == ours.encode(contents)
    assert [theirs.decode(tokens) for tokens in theirs.encode(contents)] == contents
    (other / "vocab.json").write_text("{")
    with pytest.raises(ModelError, match="expected a tokenizer of transformers, found"):
        CausalLM(other)


@pytest.mark.parametrize("begin", [256, False])
@pytest.mark.parametrize("prompt", [None, b"ab", b"p" * 30])
def test_a_long_content_is_cut_into_windows_and_every_byte_has_one_loss(begin, prompt, tmp_path):
    GPT2Config(vocab_size=257, n_embd=8, n_layer=1, n_head=2, n_positions=16).save_pretrained(tmp_path)
    adapter, content = CausalLM(tmp_path, begin=begin, long="cut"), bytes(range(37))
    batch = adapter.collate([content, b"short"], [prompt, None])
    assert batch.ids.shape[1] <= 17
    predicted = Counter(batch.targets[: batch.windows][batch.targets[: batch.windows] != -100].tolist())
    first = 1 if not begin and not prompt else 0  # nothing predicts the first byte of all
    assert predicted == Counter(range(first, 37))
    kept = [] if prompt is None else list(prompt)[-8:]
    for window in batch.ids[: batch.windows]:
        start = ([256] if begin else []) + kept
        assert window[: len(start)].tolist() == start
    module = adapter.module().eval()
    with torch.no_grad():
        both = adapter.loss(module, batch)
        alone = adapter.loss(module, adapter.collate([b"short"]))
    assert both[1].item() == pytest.approx(alone.item(), rel=1e-5)
    windows = [window[window >= 0].tolist() for window in batch.ids[: batch.windows]]
    given = len(kept) + bool(begin)
    assert both[0].item() == pytest.approx(sum(by_hand(module, ids, given) for ids in windows), rel=1e-5)


def test_a_prompt_is_cut_at_its_front_and_only_where_it_has_to_be(tmp_path):
    GPT2Config(vocab_size=257, n_embd=8, n_layer=1, n_head=2, n_positions=16).save_pretrained(tmp_path)
    adapter = CausalLM(tmp_path, long="cut")
    (ids,) = adapter.collate([b"abc"], [b"0123456789abcdef"]).ids
    assert bytes(ids[1:].tolist()) == b"3456789abcdefabc"
    with pytest.raises(
        ExampleError, match=r"at most 16 bytes, .*, found 3 bytes after a prompt of 16. Split .* long = \"cut\""
    ):
        CausalLM(tmp_path).collate([b"abc"], [b"0123456789abcdef"])


def test_features_of_a_content_that_is_cut_are_the_sum_over_its_windows(tmp_path):
    GPT2Config(vocab_size=257, n_embd=8, n_layer=1, n_head=2, n_positions=16).save_pretrained(tmp_path)
    adapter = CausalLM(tmp_path, long="cut")
    module, projection = adapter.module().eval(), Projection(dense=64)

    def features(*contents):
        examples = [Example(content) for content in contents]
        return gradient_features(adapter, module, examples, projection=projection, checkpoint="x", batch_size=4).dense

    contents = [bytes(range(40)), b"short", bytes(range(100, 120)), b"another"]
    together = features(*contents)
    for row, content in enumerate(contents):
        assert together[row] == pytest.approx(features(content)[0], rel=1e-3, abs=1e-6)
    windows = features(*[bytes(range(start, min(start + 16, 40))) for start in (0, 16, 32)])
    assert together[0] == pytest.approx(windows.sum(axis=0), rel=1e-3, abs=1e-6)


def test_events_may_follow_events(tmp_path):
    GPT2Config(vocab_size=300, n_embd=8, n_layer=1, n_head=2, n_positions=16).save_pretrained(tmp_path)
    adapter = EventSequence(tmp_path)
    module = adapter.module().eval()
    after, all_of_it, before = of(adapter, module, (b"\5\6", b"\1\2"), (b"\1\2\5\6",), (b"\1\2",))
    assert after == pytest.approx(all_of_it - before, rel=1e-4)


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 48}
SIDES = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 48,
}
CAUSAL = {
    "opt": {**SMALL, "ffn_dim": 32, "word_embed_proj_dim": 16},
    "biogpt": {**SMALL, "intermediate_size": 32},
    "bart": SIDES,
    "xglm": {"d_model": 16, "ffn_dim": 32, "num_layers": 2, "attention_heads": 2, "max_position_embeddings": 48},
    "mixtral": {
        **SMALL,
        "intermediate_size": 32,
        "num_key_value_heads": 1,
        "num_local_experts": 4,
        "output_router_logits": True,
    },
    "mamba": {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 2},
    "gemma3_text": {**SMALL, "intermediate_size": 32, "num_key_value_heads": 1, "head_dim": 8},
    "openai-gpt": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 48},
}


@pytest.mark.parametrize("kind", CAUSAL)
def test_architectures_have_the_loss_of_transformers_with_and_without_padding(kind, folder):
    AutoConfig.for_model(kind, vocab_size=300, **CAUSAL[kind]).save_pretrained(folder)
    adapter, tokens = CausalLM(folder, begin=BEGIN), tokenizer()
    module = adapter.module().eval()
    rows = [[BEGIN, *tokens.encode(text).ids] for text in TEXTS]
    module.config.output_router_logits = False  # else transformers adds the routers' own loss
    loss = by_hand if kind == "bart" else by_transformers  # transformers does not shift the labels of BART
    expected = [loss(module, ids, 1) for ids in rows]
    module.config.output_router_logits = True
    examples = [(text.encode(),) for text in TEXTS]
    assert of(adapter, module, *examples) == pytest.approx(expected, rel=1e-4)
    assert [of(adapter, module, example)[0] for example in examples] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_encoder_decoders_have_the_loss_of_transformers(kind, folder, tmp_path):
    sizes = {"t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}, "bart": SIDES}[kind]
    AutoConfig.for_model(kind, vocab_size=300, decoder_start_token_id=1, pad_token_id=1, **sizes).save_pretrained(folder)
    adapter, tokens = Seq2SeqLM(folder), tokenizer()
    module = adapter.module().eval()
    examples, expected = [(b"it is", b"what is a dog?"), (b"a dog is an animal", b"is it?")], []
    for content, prompt in examples:
        ids, labels = (torch.tensor([tokens.encode(text.decode()).ids]) for text in (prompt, content))
        with torch.no_grad():
            expected.append(module(input_ids=ids, labels=labels).loss.item() * labels.numel())
    assert of(adapter, module, *examples) == pytest.approx(expected, rel=1e-4)
    adapter.train([b"it is"] * 4, prompts=[b"is it?"] * 4, seed=1, folder=tmp_path / "trained")
    model = read_model(tmp_path / "trained")
    assert of(model.adapter(), model.load(model.card.checkpoints[-1]), (b"it is", b"is it?"))[0] > 0
    for prompts, message in (
        ([None], "example 0 .*expected a prompt"),
        ([b"x" * 2000], "example 0 .*prompt: expected at most"),
    ):
        with pytest.raises(ExampleError, match=message):
            Seq2SeqLM(folder, context=40).collate([b"it"], prompts)


def test_the_pass_is_in_float32_whatever_the_checkpoint_has(tiny_model, tmp_path):
    model = read_model(tiny_model)
    narrow = {name: tensor.bfloat16() for name, tensor in load_file(tiny_model / model.card.checkpoints[-1].file).items()}
    for copy, dtype in (("narrow", torch.bfloat16), ("wide", torch.float32)):
        (tmp_path / copy).mkdir()
        for file in tiny_model.iterdir():
            (tmp_path / copy / file.name).write_bytes(file.read_bytes())
        save_file({name: t.to(dtype) for name, t in narrow.items()}, tmp_path / copy / model.card.checkpoints[-1].file)
    config = tmp_path / "narrow" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "dtype": "bfloat16"}))
    examples = [Example(b"def f():"), Example(b"x = 1")]

    def losses(folder, **arguments):
        read = read_model(folder)
        module = read.load(read.card.checkpoints[-1], **arguments)
        return module, all_losses(read.adapter(), module, examples, batch_size=2)

    module, values = losses(tmp_path / "narrow")
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert values.tolist() == losses(tmp_path / "wide")[1].tolist()
    path = tmp_path / "narrow" / "model.toml"
    path.write_text(path.read_text().replace("[adapter_args]", '[adapter_args]\ndtype = "bfloat16"'))
    module, rounded = losses(tmp_path / "narrow")
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
    assert 0 < np.abs(rounded / values - 1).max() < 0.02
    assert losses(tmp_path / "narrow", dtype=torch.float32)[1].tolist() == values.tolist()


def test_an_architecture_that_is_no_causal_language_model_is_refused(folder):
    AutoConfig.for_model("vit").save_pretrained(folder)
    with pytest.raises(ModelError, match="config.json: vocab_size: expected the number of tokens .*, found ViTConfig"):
        CausalLM(folder)
    AutoConfig.for_model("t5", vocab_size=300).save_pretrained(folder)
    with pytest.raises(ModelError, match="config.json: expected an architecture for AutoModelForCausalLM, found ValueError"):
        CausalLM(folder).module()
