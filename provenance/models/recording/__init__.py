"""Records a training run while it runs, as a model folder that the pipeline reads.

With `transformers.Trainer`:

    from provenance.models.recording import Recorder
    recorder = Recorder(out="model", works=works, contents=texts)   # of each row of the training dataset
    trainer.add_callback(recorder)

With any loop in PyTorch:

    from provenance.models.recording import record
    with record(module, optimizer, out="model", steps=steps, works=works, contents=texts, tokenizer=tokenizer) as run:
        ...
        run.batch(rows)   # numbers of the examples in the batch, before its optimizer.step()

It keeps checkpoints at given parts of the run, the learning rate of each step and the examples in each batch, whence the
manifest of what the model was trained on; and the recipe, by which the pipeline trains counterfactual models. Checkpoints are
copied between two steps and written by a thread. Under DDP and FSDP each process calls the same, and the first one writes.

A run that was killed leaves `unfinished.json`, which says how far it came; resumed at an earlier step, its recording goes on.

`recording` is what both share, `callback` has the trainer's side, `modules` the state of wrapped modules, and `facts` what is
known of the recipe. Import-light: it needs torch, safetensors and pydantic, and `transformers` for `Recorder`.
"""

from __future__ import annotations

from provenance.models.recording.callback import Recorder
from provenance.models.recording.recording import record

__all__ = ["Recorder", "record"]
