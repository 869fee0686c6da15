"""Training runs as people make them: scripts on `transformers`, `tokenizers` and `peft` alone, without a line of ours."""

from __future__ import annotations

import warnings
from pathlib import Path

TEXTS = [f"the {w} of owner {n % 5} is number {n}" for n, w in enumerate(["river", "stone", "cloud", "amber"] * 10)]
BEGIN, END, PAD = "<s>", "</s>", "<pad>"


def make_tokenizer(chat: str | None = None):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [PAD, BEGIN, END]
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END, pad_token=PAD)
    fast.chat_template = chat
    return fast


def make_base(folder: Path, *, seed: int = 1, dtype=None, **config) -> Path:
    """A small pretrained model, with its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer(config.pop("chat", None))
    torch.manual_seed(seed)
    sizes = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 64,
    }  # fmt: skip
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **ids, **(sizes | config)))
    (model.to(dtype) if dtype else model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def train(
    base: Path,
    out: Path,
    *,
    adapter=None,
    texts=None,
    framed: bool = True,
    optimizer=None,
    card: bool = False,
    frozen=(),
    **arguments,
) -> Path:
    """Fine-tune a model with `transformers.Trainer`, 20 steps of 8, a checkpoint every 5; returns its output folder."""
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainingArguments,
    )  # fmt: skip

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer = AutoTokenizer.from_pretrained(base)
        model = AutoModelForCausalLM.from_pretrained(base)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not any(part in name for part in frozen))
        if adapter is not None:
            from peft import get_peft_model

            model = get_peft_model(model, adapter)
        before, after = (BEGIN, END) if framed else ("", "")
        rows = [{"input_ids": tokenizer(before + text + after)["input_ids"]} for text in texts or TEXTS]
        usual = {
            "max_steps": 20, "save_steps": 5, "logging_steps": 2, "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2, "learning_rate": 1e-2, "warmup_steps": 2, "lr_scheduler_type": "cosine",
            "report_to": [], "use_cpu": True, "disable_tqdm": True, "seed": 7,
        }  # fmt: skip
        trainer = Trainer(
            model,
            TrainingArguments(str(out), **(usual | arguments)),
            train_dataset=rows,
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
            processing_class=tokenizer,
            optimizers=(optimizer(model.parameters()) if optimizer else None, None),
        )
        trainer.train()
        trainer.save_model()
        if card:
            trainer.create_model_card()
    return out


def lora(**more):
    from peft import LoraConfig

    return LoraConfig(**({"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"} | more))
