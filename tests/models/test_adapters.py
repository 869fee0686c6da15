"""Built-in adapters refuse wrong contents, and train valid model folders."""

import io

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import GPT2Config

from provenance.core.errors import ExampleError, ModelError
from provenance.models.adapters.causal_lm import CausalLM
from provenance.models.adapters.denoiser import Denoiser
from provenance.models.adapters.event_sequence import EventSequence
from provenance.models.model import Example, example_losses, read_model


def image(size=8, colour=200, mode="L"):
    file = io.BytesIO()
    Image.new(mode, (size, size), colour).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture
def gpt2(tmp_path):
    GPT2Config(vocab_size=300, n_embd=8, n_layer=1, n_head=2, n_positions=20, bos_token_id=299).save_pretrained(tmp_path)
    return tmp_path


def bytewise(folder, **arguments):
    return CausalLM(folder, bytes=True, **arguments)


def words(folder):
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(["a cat sat"], trainers.WordLevelTrainer(special_tokens=["<unk>"]))
    tokenizer.save(str(folder / "tokenizer.json"))


def trained_loss(adapter, contents, folder):
    adapter.train(contents, seed=3, folder=folder)
    model = read_model(folder)
    modules = [model.load(model.card.checkpoints[at]) for at in (0, -1)]
    stored = model.adapter()
    with torch.no_grad():
        return [stored.loss(module, stored.collate(list(contents))).mean().item() for module in modules]


@pytest.mark.parametrize("kind", ["bytes", "tokens", "events", "images"])
def test_training_lowers_the_loss_and_writes_a_model_folder(kind, gpt2, tmp_path):
    if kind == "tokens":
        words(gpt2)
    adapter, contents = {
        "bytes": lambda: (bytewise(gpt2, epochs=40, batch_size=2, learning_rate=1e-2), [b"abab", b"babab"]),
        "tokens": lambda: (CausalLM(gpt2, epochs=40, batch_size=2, learning_rate=1e-2), [b"a cat sat", b"a cat"]),
        "events": lambda: (EventSequence(gpt2, epochs=40, batch_size=2, learning_rate=1e-2), [bytes([60, 200] * 4)] * 2),
        "images": lambda: (Denoiser(tmp_path, size=8, width=4, epochs=40, batch_size=2), [image(), image(colour=10)]),
    }[kind]()
    before, after = trained_loss(adapter, contents, tmp_path / "trained")
    assert after < before


def test_retraining_from_the_folder_repeats_the_run(gpt2, tmp_path):
    """The recipe is stored in the folder, so that an audit trains by the same recipe."""
    bytewise(gpt2, epochs=3, batch_size=2, learning_rate=1e-3).train([b"ab", b"cd"], seed=1, folder=tmp_path / "first")
    read_model(tmp_path / "first").adapter().train([b"ab", b"cd"], seed=1, folder=tmp_path / "again")
    first, again = (dict(read_model(tmp_path / name).files) for name in ("first", "again"))
    del first["model.toml"], again["model.toml"]
    assert first == again


def test_sequences_begin_with_the_architectures_token_and_a_content_that_is_no_text_is_named(gpt2):
    words(gpt2)
    ids = CausalLM(gpt2).collate([b"a cat sat", b"cat"]).ids
    assert ids[:, 0].tolist() == [299, 299]
    assert (ids[1] == -100).sum() == 2
    with pytest.raises(ModelError, match=r"example 1 of the batch: expected UTF-8, which the tokenizer reads"):
        CausalLM(gpt2).collate([b"a", b"\xff\xfe"])


@pytest.mark.parametrize("kind", ["bytes", "images"])
def test_the_loss_of_a_content_is_the_same_in_every_batch(kind, gpt2):
    adapter, content, other = {
        "bytes": lambda: (bytewise(gpt2), b"ab", b"a longer one"),
        "images": lambda: (Denoiser(gpt2, size=8, width=4, draws=3), image(), image(colour=3)),
    }[kind]()
    module = adapter.module().eval()
    with torch.no_grad():
        both, single = (adapter.loss(module, adapter.collate(batch)) for batch in ([content, other], [content]))
    assert both[0].item() == pytest.approx(single[0].item(), rel=1e-5)


@pytest.mark.parametrize(
    ("make", "content", "message"),
    [
        (bytewise, b"x" * 21, r"example 0 of the batch: expected at most 20 bytes, the model's context, found 21"),
        (EventSequence, bytes(21), r"expected at most 20 events, the model's context, found 21 events. Split"),
        (lambda f: EventSequence(f, width=2), bytes(3), r"expected whole events of 2 bytes, found 3 bytes"),
        (lambda f: EventSequence(f, events=9), bytes([9]), r"expected events below 9, found event 9"),
        (lambda f: Denoiser(f, size=8), image(6), r"expected 8 x 8 pixels, found 6 x 6"),
        (lambda f: Denoiser(f, size=8), b"no image", r"expected an image file, found b'no image'"),
    ],
)
def test_contents_that_do_not_fit_are_refused(gpt2, make, content, message):
    with pytest.raises(ModelError, match=message):
        make(gpt2).collate([content])


def test_images_with_more_colours_than_the_model_are_refused(tmp_path):
    grey, colour = Denoiser(tmp_path, size=8), Denoiser(tmp_path, size=8, channels=3)
    as_rgb, as_grey = (grey.collate([content])[0] for content in (image(8, (9, 9, 9), "RGB"), image(colour=9)))
    assert torch.equal(as_rgb, as_grey)
    colour.collate([image(8, (9, 0, 0), "RGB"), image(8, (9, 0, 0, 255), "RGBA")])
    with pytest.raises(ModelError, match=r"expected an opaque grey image, for channels = 1, found one of mode RGB"):
        grey.collate([image(8, (9, 0, 0), "RGB")])
    with pytest.raises(ModelError, match=r"expected an opaque colour image, for channels = 3, found one of mode RGBA"):
        colour.collate([image(8, (9, 0, 0, 100), "RGBA")])


def test_what_is_beyond_the_architecture_and_training_on_nothing_are_named(gpt2, tmp_path):
    for kind in (bytewise, EventSequence):
        assert kind(gpt2, context=20).context == kind(gpt2).context == 20
        with pytest.raises(ModelError, match=r"context: expected 1 to 20, the positions in config.json, found 21"):
            kind(gpt2, context=21)
    with pytest.raises(ModelError, match=r"config.json: vocab_size: expected at least 301 for 300 events, found 300"):
        EventSequence(gpt2, events=300)
    with pytest.raises(ModelError, match="training: expected at least one content, found none"):
        bytewise(gpt2).train([], seed=1, folder=tmp_path)


@pytest.mark.parametrize("begin", [256, None])
def test_a_prompt_conditions_the_loss_and_has_none_itself(begin, gpt2):
    adapter = bytewise(gpt2)
    adapter.begin = begin
    module = adapter.module().eval()

    def of(content):
        return adapter.loss(module, adapter.collate([content]))[0].item()

    asked = [Example(b"lo world", b"hel"), Example(b"alone"), Example(b"no", b"")]
    expected = [of(b"hello world") - of(b"hel"), of(b"alone"), of(b"no")]
    assert example_losses(adapter, module, asked).tolist() == pytest.approx(expected, rel=1e-4)


def test_a_prompt_is_refused_by_name_where_the_adapter_cannot_condition(tmp_path):
    adapter = Denoiser(tmp_path, size=8)
    with pytest.raises(
        ExampleError, match="prompt of example 1 of the batch: expected no prompt, because this adapter does not"
    ):
        example_losses(adapter, adapter.module(), [Example(image()), Example(image(), b"a cat")])


def test_a_prompt_too_long_for_the_context_is_told_apart_from_its_content(gpt2):
    with pytest.raises(ExampleError, match="at most 20 bytes, the model's context, found 4 bytes after a prompt of 17"):
        bytewise(gpt2).collate([b"four"], [b"p" * 17])


def test_logits_of_prompts_are_not_computed(gpt2):
    adapter, seen = CausalLM(gpt2, bytes=True), []
    module = adapter.module().eval()
    module.register_forward_hook(lambda _module, _inputs, output: seen.append(output.logits.shape[1]))
    example_losses(adapter, module, [Example(b"four", b"a prompt"), Example(b"six", b"another one")])
    assert seen == [6], "from the first token of the content after the shorter prompt on"
