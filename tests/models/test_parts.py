"""Losses of parts of a content: they lie where their text does, and add up to the whole."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from test_framing import CHATML, folder, save_tokenizer  # noqa: F401 (a fixture)
from transformers import GPT2Config, T5Config

from provenance.core.errors import ModelError
from provenance.features.gradients import gradient_features
from provenance.features.projection import Projection
from provenance.models.adapters.causal_lm import CausalLM
from provenance.models.adapters.event_sequence import EventSequence
from provenance.models.adapters.seq2seq_lm import Seq2SeqLM
from provenance.models.model import Example, ExamplePart, all_losses, example_losses

ANSWER = "a dog is, naïvely, an animal…".encode()


def parts_of(adapter, example, size=3):
    """The example's parts of so many terms, and their places."""
    (places,) = adapter.places([example.content], [example.prompt])
    cuts = range(0, len(places), size)
    return places, [ExamplePart(example, (at, min(at + size, len(places)))) for at in cuts]


def bytes_model(tmp_path, **options):
    GPT2Config(vocab_size=257, n_embd=8, n_layer=1, n_head=2, n_positions=40, bos_token_id=256).save_pretrained(tmp_path)
    return CausalLM(tmp_path, **options)


def events(tmp_path, **options):
    GPT2Config(vocab_size=300, n_embd=8, n_layer=1, n_head=2, n_positions=40).save_pretrained(tmp_path)
    return EventSequence(tmp_path, events=256, width=1, **options)


def encoder_decoder(folder, tmp_path):  # noqa: F811
    other = tmp_path / "t5"
    T5Config(
        vocab_size=300, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0, pad_token_id=0
    ).save_pretrained(other)
    save_tokenizer(other)
    return Seq2SeqLM(other, context=60)


@pytest.fixture(params=["tokens", "tokens with an end", "no begin", "chat", "bytes", "windows", "events", "encoder-decoder"])
def model(request, folder, tmp_path):  # noqa: F811
    """An adapter, and an example for it."""
    make = {
        "tokens": lambda: CausalLM(folder),
        "tokens with an end": lambda: CausalLM(folder, end=1),
        "no begin": lambda: CausalLM(folder, begin=False),
        "chat": lambda: CausalLM(folder, template="chat"),
        "bytes": lambda: bytes_model(tmp_path / "bytes"),
        "windows": lambda: bytes_model(tmp_path / "bytes", context=8, long="cut"),
        "events": lambda: events(tmp_path / "events"),
        "encoder-decoder": lambda: encoder_decoder(folder, tmp_path),
    }[request.param]
    prompt = b"what is a dog?" if request.param in ("chat", "encoder-decoder", "tokens") else None
    torch.manual_seed(1)
    adapter = make()
    return adapter, adapter.module().eval(), Example(ANSWER, prompt)


def test_the_losses_of_parts_add_up_to_the_whole(model):
    adapter, module, example = model
    _, parts = parts_of(adapter, example)
    assert len(parts) > 3
    whole = all_losses(adapter, module, [example], batch_size=1)[0]
    each = all_losses(adapter, module, parts, batch_size=len(parts))
    assert each.sum() == pytest.approx(whole, rel=1e-5)
    assert (each > 0).all()
    one_by_one = all_losses(adapter, module, parts, batch_size=1)
    np.testing.assert_allclose(one_by_one, each, rtol=1e-4)
    mixed = all_losses(adapter, module, [parts[0], example], batch_size=2)
    np.testing.assert_allclose(mixed, [each[0], whole], rtol=1e-5)


def test_the_gradients_of_parts_add_up_to_the_whole(model):
    adapter, module, example = model
    _, parts = parts_of(adapter, example, size=6)
    how = {"projection": Projection(dense=64), "checkpoint": "c", "batch_size": 4}
    rows = gradient_features(adapter, module, [example, *parts], **how)
    dense = rows.dense
    np.testing.assert_allclose(dense[1:].sum(axis=0), dense[0], atol=1e-4 * np.abs(dense[0]).max())
    sums = np.zeros((2, rows.sparse.vocabulary, rows.sparse.values.shape[1]))
    np.add.at(sums, (np.minimum(rows.sparse.example, 1), rows.sparse.token), rows.sparse.values)
    # The head keeps the rows of the tokens of each part alone.
    np.testing.assert_allclose(sums[1], sums[0], atol=0.03 * np.abs(sums[0]).max())


def test_places_cover_the_content_in_order(model):
    adapter, _, example = model
    places, _ = parts_of(adapter, example)
    inside = [place for place in places if place[0] < place[1]]
    assert all(a <= b for a, b in places)
    assert [end for _, end in inside] == sorted(end for _, end in inside)
    assert inside[-1][1] == len(ANSWER)
    first = inside[0][0]
    assert b"".join(ANSWER[b:a] for (_, b), (a, _) in pairwise(inside)).strip() == b"", "gaps are blank"
    assert first == 0 or ANSWER[:first] == adapter.decode(adapter.encode([ANSWER])[0][:1])


def test_the_places_of_a_chat_s_answer_are_those_in_the_answer(folder):  # noqa: F811
    adapter = CausalLM(folder, template="chat")
    (places,) = adapter.places([b"  it is  "], [b"is it?"])
    spoken = b"".join(b"  it is  "[a:b] for a, b in places)
    assert spoken == b"  it is  "
    assert places[-1] == (9, 9), "the end of the turn lies nowhere"
    stripping = CHATML.replace("message.content", "message.content.strip()")
    save_tokenizer(folder, stripping)
    (places,) = CausalLM(folder, template="chat").places([b"  it is  "], [b"is it?"])
    assert b"".join(b"  it is  "[a:b] for a, b in places if b <= 7) == b"it is"


def test_an_adapter_whose_loss_has_no_parts_says_so(model):
    adapter, module, example = model

    class Whole:
        collate, loss = adapter.collate, adapter.loss

    with pytest.raises(ModelError, match="places and restrict"):
        example_losses(Whole(), module, [ExamplePart(example, (0, 1))])
