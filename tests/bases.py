"""Models that stand on frozen weights, in tests: a base, and adapters as peft saves them."""

import warnings

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

CARD = """
model_id = "adapted"
adapter = "CausalLM"
[adapter_args]
context = 64
[base]
folder = "../base"
[[checkpoints]]
file = "step-0000.safetensors"
step = 0
learning_rate_sum = 0.0
[[checkpoints]]
file = "step-0010.safetensors"
step = 10
learning_rate_sum = 0.01
"""


def save_base(folder, **options):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        bos_token_id=256,
        eos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder, **options)


def adapted(folder, seed=1, **options):
    """A model folder with an adapter of peft on `../base`, written by peft alone: fresh, and with random weights."""
    folder.mkdir()
    (folder / "model.toml").write_text(CARD)
    torch.manual_seed(seed)
    config = LoraConfig(**{"r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"], **options})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's, about transformers
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder.parent / "base"), config)
    config.save_pretrained(folder)
    for number in (0, 10):
        trained = {name.removeprefix("base_model.model."): p for name, p in model.named_parameters() if p.requires_grad}
        save_file({name: p.detach().contiguous() for name, p in trained.items()}, folder / f"step-{number:04d}.safetensors")
        for parameter in trained.values():
            torch.nn.init.normal_(parameter.data, std=0.1)
    return folder
