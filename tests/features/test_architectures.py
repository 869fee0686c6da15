"""Architectures of today, small and with random weights: their features are held against autograd."""

import functools

import diffusers
import numpy as np
import peft
import pytest
import torch
import transformers as hf
from torch.nn import functional

from provenance.features.checks import check_following
from provenance.features.projection import Projection
from provenance.models.model import Example

PROJECTION = Projection(seed=3, dense=400, dense_alone=400, token_rank=4)
EXAMPLES = [
    Example(text.encode()) for text in ("abcab", "a longer example of a text", "b!", "cdcdcdcdcd", "a text of middle size")
]
SMALL = {"vocab_size": 260, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = {**SMALL, "intermediate_size": 24, "num_key_value_heads": 1, "max_position_embeddings": 64}
GEMMA = {**LLAMA, "head_dim": 8}
EXPERTS = {**LLAMA, "num_experts_per_tok": 2}


def jamba():
    return hf.JambaConfig(
        **LLAMA, num_experts=2, num_experts_per_tok=1, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2,
        mamba_d_state=4, mamba_d_conv=3, mamba_dt_rank=4, use_mamba_kernels=False,
    )  # fmt: skip


def falcon_h1():
    return hf.FalconH1Config(
        **LLAMA, head_dim=8, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_n_groups=1, mamba_d_state=4, mamba_d_conv=3,
        mamba_chunk_size=8, mamba_expand=2,
    )  # fmt: skip


DECODERS = {
    "Llama": lambda tied: hf.LlamaConfig(**LLAMA, tie_word_embeddings=tied),
    "Qwen2": lambda tied: hf.Qwen2Config(**LLAMA, tie_word_embeddings=tied),
    "GPT-2": lambda tied: hf.GPT2Config(
        vocab_size=260, n_embd=16, n_layer=2, n_head=2, n_positions=64, tie_word_embeddings=tied
    ),
    "GPT-NeoX": lambda tied: hf.GPTNeoXConfig(
        **SMALL, intermediate_size=24, max_position_embeddings=64, tie_word_embeddings=tied
    ),
    "Gemma": lambda tied: hf.GemmaConfig(**GEMMA, tie_word_embeddings=tied),
    "Gemma 2": lambda tied: hf.Gemma2Config(**GEMMA, tie_word_embeddings=tied),
    "Gemma 3": lambda tied: hf.Gemma3TextConfig(**GEMMA, tie_word_embeddings=tied),
    "XGLM": lambda tied: hf.XGLMConfig(
        vocab_size=260,
        d_model=16,
        ffn_dim=24,
        num_layers=2,
        attention_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
    ),
    "OPT": lambda tied: hf.OPTConfig(
        **SMALL, ffn_dim=24, max_position_embeddings=64, word_embed_proj_dim=16, tie_word_embeddings=tied
    ),
    "BioGPT": lambda tied: hf.BioGptConfig(**SMALL, intermediate_size=24, max_position_embeddings=64, tie_word_embeddings=tied),
    "BART decoder": lambda tied: hf.BartConfig(
        vocab_size=260,
        d_model=16,
        decoder_ffn_dim=24,
        decoder_layers=2,
        decoder_attention_heads=2,
        max_position_embeddings=64,
        is_decoder=True,
        is_encoder_decoder=False,
        tie_word_embeddings=tied,
    ),
    "Phi": lambda tied: hf.PhiConfig(**LLAMA, tie_word_embeddings=tied),
    "Falcon": lambda tied: hf.FalconConfig(**SMALL, tie_word_embeddings=tied),
    "Bloom": lambda tied: hf.BloomConfig(vocab_size=260, hidden_size=16, n_layer=2, n_head=2, tie_word_embeddings=tied),
    "Mixtral": lambda tied: hf.MixtralConfig(**EXPERTS, num_local_experts=4, tie_word_embeddings=tied),
    "Qwen2 MoE": lambda tied: hf.Qwen2MoeConfig(
        **EXPERTS, num_experts=12, moe_intermediate_size=16, shared_expert_intermediate_size=16, tie_word_embeddings=tied
    ),
    "GPT-OSS": lambda tied: hf.GptOssConfig(**EXPERTS, head_dim=8, num_local_experts=4, tie_word_embeddings=tied),
    "Mamba": lambda tied: hf.MambaConfig(
        vocab_size=260, hidden_size=16, num_hidden_layers=2, state_size=4, time_step_rank=4, tie_word_embeddings=tied
    ),
    "Mamba 2": lambda tied: hf.Mamba2Config(
        vocab_size=260,
        hidden_size=16,
        num_hidden_layers=2,
        state_size=4,
        num_heads=4,
        head_dim=8,
        n_groups=1,
        expand=2,
        chunk_size=8,
        tie_word_embeddings=tied,
    ),
    "Jamba": lambda tied: jamba(),
    "Falcon-H1": lambda tied: falcon_h1(),
}


class Causal:
    """A causal language model of bytes, with an attention mask; padding is at the end."""

    def __init__(self, config):
        self.config = config

    @functools.cached_property
    def network(self):
        torch.manual_seed(0)
        return hf.AutoModelForCausalLM.from_config(self.config).eval()

    def module(self):
        return self.network

    def collate(self, contents):
        longest = max(map(len, contents))
        ids = torch.full((len(contents), longest + 1), -100)
        for row, content in enumerate(contents):
            ids[row, : len(content) + 1] = torch.tensor([257, *content])
        return ids

    def loss(self, module, ids):
        mask = (ids[:, :-1] != -100).long()
        logits = module(input_ids=ids[:, :-1].clamp(min=1), attention_mask=mask, use_cache=False).logits
        return token_losses(logits, ids[:, 1:])


def token_losses(logits, targets):
    losses = functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-100, reduction="none")
    return losses.view(len(targets), -1).sum(1)


class Seq2Seq(Causal):
    """An encoder-decoder: the encoder reads the prompt, or the content's first half where there is none."""

    @functools.cached_property
    def network(self):
        torch.manual_seed(0)
        return hf.AutoModelForSeq2SeqLM.from_config(self.config).eval()

    def collate(self, contents, prompts=None):
        prompts = prompts or [None] * len(contents)
        sources = [prompt or content[: len(content) // 2 + 1] for content, prompt in zip(contents, prompts, strict=True)]
        return super().collate(sources)[:, 1:], super().collate(contents)

    def loss(self, module, batch):
        source, ids = batch
        logits = module(
            input_ids=source.clamp(min=1), attention_mask=(source != -100).long(), decoder_input_ids=ids[:, :-1].clamp(min=1),
            use_cache=False,
        ).logits  # fmt: skip
        return token_losses(logits, ids[:, 1:])


BOTH = {
    "BART": lambda tied: hf.BartConfig(
        vocab_size=260,
        d_model=16,
        decoder_ffn_dim=24,
        decoder_layers=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        encoder_layers=2,
        encoder_attention_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
    ),
    "T5": lambda tied: hf.T5Config(
        vocab_size=260, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, tie_word_embeddings=tied
    ),
}


class Pictures(Causal):
    """Text with or without an image, which is noise that the first byte chooses; a letter `[` stands for it."""

    @functools.cached_property
    def network(self):
        torch.manual_seed(0)
        return hf.AutoModelForImageTextToText.from_config(self.config).eval()

    def collate(self, contents):
        sequences = [[258] * 4 * (content[:1] == b"[") + list(content) for content in contents]
        longest = max(map(len, sequences))
        ids = torch.full((len(contents), longest + 1), -100)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence) + 1] = torch.tensor([257, *sequence])
        seeds = [len(content) for content in contents if content[:1] == b"["]
        pixels = [torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return ids, torch.stack(pixels) if pixels else None

    def loss(self, module, batch):
        ids, pixels = batch
        images = {} if pixels is None else {"pixel_values": pixels.to(module.dtype)}
        mask = (ids[:, :-1] != -100).long()
        logits = module(input_ids=ids[:, :-1].clamp(min=1), attention_mask=mask, use_cache=False, **images).logits
        targets = ids[:, 1:].masked_fill(ids[:, 1:] == 258, -100)
        return token_losses(logits, targets)


def llava():
    vision = hf.CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
    )
    return hf.LlavaConfig(
        vision_config=vision, text_config=hf.LlamaConfig(**LLAMA), image_token_index=258, image_seq_length=4,
        vision_feature_select_strategy="default", vision_feature_layer=-1,
    )  # fmt: skip


class Noise:
    """Predicts the noise in latents, which a content's bytes choose; of each content at two times."""

    def __init__(self, make, more=None):
        self.make, self.more = make, more or (lambda n, dtype: {})

    @functools.cached_property
    def network(self):
        torch.manual_seed(0)
        module = self.make().eval()
        for parameter in module.parameters():  # a DiT begins with zeros
            parameter.data += 0.05 * torch.randn_like(parameter)
        return module

    def module(self):
        return self.network

    def collate(self, contents):
        draws = [torch.Generator().manual_seed(sum(content) + len(content)) for content in contents]
        return torch.stack([torch.randn(2, 2, 4, 8, 8, generator=draw) for draw in draws])

    def loss(self, module, batch):
        batch = batch.to(module.dtype)
        n = len(batch)
        clean, noise = (batch[:, :, at].flatten(0, 1) for at in (0, 1))
        times = torch.tensor([1, 7]).repeat(n)
        predicted = module(clean + noise, times, **self.more(2 * n, batch.dtype)).sample[:, :4]
        return (predicted - noise).float().square().flatten(1).sum(1).view(n, 2).sum(1)


def unet():
    return diffusers.UNet2DModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
    )  # fmt: skip


def unet_condition():
    return diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=12, attention_head_dim=4,
    )  # fmt: skip


def dit():
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8, patch_size=2,
        num_embeds_ada_norm=10,
    )  # fmt: skip


def states(n, dtype):
    return {"encoder_hidden_states": torch.linspace(-1, 1, 60, dtype=dtype).view(1, 5, 12).expand(n, -1, -1)}


OTHERS = {
    "LLaVA": lambda: Pictures(llava()),
    "UNet2D": lambda: Noise(unet),
    "UNet2DCondition": lambda: Noise(unet_condition, states),
    "DiT": lambda: Noise(dit, lambda n, dtype: {"class_labels": torch.full((n,), 3)}),
}
MIXED = [*EXAMPLES, Example(b"[ a picture"), Example(b"[ another, longer picture"), Example(b"[x")]


# The largest deviation from autograd, and the parts that only autograd follows.
MOST = {"float32": 1e-5, "bfloat16": 0.01}
BY_AUTOGRAD = {
    "GPT-OSS": ("sinks", "proj_bias"),
    "Mamba": ("A_log", "D", "conv1d.weight", "dt_proj.weight"),
    "Mamba 2": ("A_log", "D", "conv1d.weight"),
    "Jamba": ("A_log", "D", "conv1d.weight", "dt_proj.weight"),
    "Falcon-H1": ("A_log", "D", "conv1d.weight"),
    "LLaVA": ("class_embedding",),
    "DoRA": ("lora_magnitude_vector.default.weight",),
}
WHAT = [("untied", "float32"), ("tied", "float32"), ("tied", "bfloat16")]


def hold(name, adapter, dtype, examples=EXAMPLES, *, adapted=False):
    """All weights of two axes or more are followed, as autograd has them, or have no gradient; adapters are in float32."""
    module = adapter.module()
    module.to(getattr(torch, dtype))
    for weight, parameter in module.named_parameters():
        if adapted and "lora" in weight:
            parameter.data = parameter.data.float()
    report = check_following(adapter, module, examples, projection=PROJECTION, checkpoint="c", xp=np)
    assert report.dtype == dtype
    summary = report.summary()
    assert not report.failed
    left_out = [layer.weight for layer in report.layers if layer.verdict == "left out"]
    assert all(module.get_parameter(weight).dim() == 1 for weight in left_out)
    assert summary["largest_deviation"] <= MOST[dtype]
    assert all(weight.endswith(BY_AUTOGRAD.get(name, ("none",))) for weight in summary["by_autograd"]), summary["by_autograd"]
    return report


@pytest.mark.parametrize(("tied", "dtype"), WHAT)
@pytest.mark.parametrize("name", BOTH)
def test_encoder_decoders(name, tied, dtype):
    with_prompts = [*EXAMPLES, Example(b"an answer", b"to a question"), Example(b"yes", b"a long question that is asked")]
    hold(name, Seq2Seq(BOTH[name](tied == "tied")), dtype, with_prompts)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", OTHERS)
def test_pictures(name, dtype):
    report = hold(name, OTHERS[name](), dtype, MIXED)
    assert report.following.arrangement.order == ("one by one" if name == "LLaVA" else "side by side")


@pytest.mark.parametrize(("tied", "dtype"), WHAT)
@pytest.mark.parametrize("name", DECODERS)
def test_decoders(name, tied, dtype):
    hold(name, Causal(DECODERS[name](tied == "tied")), dtype)


def adapted(dora):
    """A Llama on which LoRA or DoRA alone is trained, away from its start, where half of the gradients are zero."""
    adapter = Causal(hf.LlamaConfig(**LLAMA))
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], use_dora=dora)
    module = peft.inject_adapter_in_model(config, adapter.network).eval()
    torch.manual_seed(1)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    return adapter, module


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
def test_adapters_on_a_frozen_model(dora, dtype):
    adapter, module = adapted(dora)
    report = hold("DoRA" if dora else "LoRA", adapter, dtype, adapted=True)
    trained = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    assert [layer.weight for layer in report.layers] == trained
    assert all("lora" in name for name in trained)
    assert report.share == 1.0
    assert report.following.layout.tokens == []
    assert report.following.arrangement.order == ("one by one" if dora else "side by side")
