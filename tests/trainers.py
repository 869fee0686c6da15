"""A tiny run of `transformers.Trainer` on bytes, as people write it."""

import torch
from samples import corpus_frames
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

BEGIN, IGNORED = 256, -100


def tiny_llama(seed=0, **changes):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {"vocab_size": 257, "max_position_embeddings": 300, "tie_word_embeddings": False, "bos_token_id": BEGIN}
    return LlamaForCausalLM(LlamaConfig(**(sizes | config | {"eos_token_id": None} | changes)))


def corpus(count=24):
    """Works and contents of the tiny corpus."""
    examples = corpus_frames()["examples"].head(count)
    return examples["work_id"].to_list(), examples["content"].to_list()


def rows_of(contents):
    return [{"input_ids": [BEGIN, *content]} for content in contents]


def pad(rows):
    longest = max(len(row["input_ids"]) for row in rows)
    ids, mask, labels = (torch.full((len(rows), longest), fill) for fill in (0, 0, IGNORED))
    for at, row in enumerate(rows):
        size = len(row["input_ids"])
        ids[at, :size] = labels[at, :size] = torch.tensor(row["input_ids"])
        mask[at, :size] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def arguments(folder, **changes):
    plain = {
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_train_epochs": 3, "learning_rate": 1e-2,
        "lr_scheduler_type": "linear", "warmup_steps": 2, "weight_decay": 0.1, "max_grad_norm": 0.5, "seed": 5,
        "save_strategy": "no", "report_to": [], "disable_tqdm": True, "use_cpu": True, "logging_strategy": "no",
        "dataloader_pin_memory": False,
    }  # fmt: skip
    return TrainingArguments(output_dir=str(folder), **(plain | changes))


def trainer(module, contents, folder, *callbacks, **changes):
    return Trainer(
        model=module,
        args=arguments(folder, **changes),
        train_dataset=rows_of(contents),
        data_collator=pad,
        callbacks=list(callbacks),
    )
