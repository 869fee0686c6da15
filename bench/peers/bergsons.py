"""Run methods of bergson 2.5, which reads only causal language models of `transformers`: no denoiser, so not the glyphs.

All of them run without a GPU, with one repair for conjugate gradients (below). EK-FAC with conjugate gradients and TrackStar
read one checkpoint, SOURCE reads all of them together, and MAGIC repeats every step of the training with the same batches.
"""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torchopt
from bergson.approx_unrolling.pipeline import approx_unrolling_pipeline
from bergson.cli.trackstar import trackstar as run_trackstar
from bergson.config.config import (
    ApproxUnrollingConfig,
    AstraConfig,
    DataConfig,
    HessianConfig,
    HessianPipelineConfig,
    IndexConfig,
    PreprocessConfig,
    QuerySetConfig,
    ScoreConfig,
    TrackstarConfig,
    TrackstarIndexConfig,
)
from bergson.data import load_scores_loss_signed
from bergson.hessians.astra import Astra
from bergson.hessians.pipeline import hessian_pipeline
from bergson.magic import MagicConfig
from bergson.magic.cli import compute_per_query_magic_scores
from bergson.magic.data_stream import DataStream, Padding
from bergson.magic.trainer import Trainer, TrainerState
from bergson.utils.load_from_optimizer import save_second_moments_as_optimizer_pt
from bergson.utils.math import weighted_causal_lm_ce
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from provenance.models.adapters.tokens import IGNORED
from provenance.models.adapters.training_loop import in_order, schedule, train_and_save

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provenance.models.model import Checkpoint, Model

# Bergson wants batches of so many tokens to fit into the model's context.
TOKENS = 4096
BETAS, EPSILON, EPSILON_ROOT, CLIP = (0.9, 0.999), 1e-8, 1e-17, 1.0
# Documents of conjugate gradients, and their steps: with more, each output would cost more than the training.
DOCUMENTS, STEPS = 64, 10

# Conjugate gradients write into the rows that they read. On a CPU these are a file mapped for reading: the process would end.
_READ_ROW = Astra._read_row  # noqa: SLF001
Astra._read_row = lambda self, *where: {name: row.clone() for name, row in _READ_ROW(self, *where).items()}  # noqa: SLF001


class Bergson:
    """A model folder and its contents as bergson reads them.

    Args:
        seed: of the training of the model served; its batches are replayed.
        chosen: the outputs that MAGIC scores; it goes back through the training once for each.
    """

    def __init__(
        self, model: Model, examples: list[bytes], outputs: list[bytes], folder: Path, *, seed: int, chosen: Sequence[int]
    ) -> None:
        self.model, self.folder, self.seed, self.chosen = model, folder, seed, chosen
        self.adapter: Any = model.adapter()
        self.contents = examples
        self.counts = len(outputs), len(examples)
        self.tokens, self.queries = (self._tokens(contents) for contents in (examples, outputs))
        for name, rows in (("examples", self.tokens), ("outputs", self.queries)):
            Dataset.from_dict({"input_ids": rows, "length": [len(row) for row in rows]}).save_to_disk(folder / name)

    def ekfac_cg(self, checkpoints: Sequence[Checkpoint]) -> np.ndarray:
        """EK-FAC whose inverse is refined by conjugate gradients (bergson's `ekfac` with ASTRA's solver `cg`)."""

        def at(index: IndexConfig) -> None:
            steps = AstraConfig(
                num_steps=STEPS, solver="cg", batch_size=DOCUMENTS, micro_batch_size=DOCUMENTS, loss_reduction="sum"
            )
            pipeline = HessianPipelineConfig(query=self._query(), astra=steps)
            hessian = HessianConfig(method="kfac", ev_correction=True)
            hessian_pipeline(index, hessian, ScoreConfig(), PreprocessConfig(), pipeline)

        return self._at_each(checkpoints, at)

    def trackstar(self, checkpoints: Sequence[Checkpoint]) -> np.ndarray:
        """TrackStar (Chang et al. 2024): gradients over Adam's second moments, projected, whitened, of unit length."""
        moments = self._second_moments(checkpoints)

        def at(index: IndexConfig) -> None:
            moment = str(moments[Path(index.model).name])
            index = TrackstarIndexConfig(**{**vars(index), "projection_dim": 16, "optimizer_state": moment})
            run_trackstar(index, TrackstarConfig(query=self._query(), preprocess_cfg=PreprocessConfig(unit_normalize=True)))

        return self._at_each(checkpoints, at)

    def source(self, checkpoints: Sequence[Checkpoint]) -> np.ndarray:
        """SOURCE (Bae et al. 2024) with AdamW's preconditioner: a segment of the training at each checkpoint."""
        sums = np.array([checkpoint.learning_rate_sum for checkpoint in checkpoints])
        steps = np.diff([0, *(checkpoint.step for checkpoint in checkpoints)])
        folders, moments = [self._export(checkpoint) for checkpoint in checkpoints], self._second_moments(checkpoints)
        for folder in folders:
            shutil.copy(moments[folder.name] / "optimizer.pt", folder)
        unrolling = ApproxUnrollingConfig(
            checkpoints=[str(folder) for folder in folders],
            model_path=str(folders[-1]),
            segments=len(folders),
            lr_list=(np.diff([0.0, *sums]) / steps).tolist(),
            step_size_list=steps.tolist(),
            use_adam_preconditioner=True,
            query=self._query(),
        )
        # Training minimises the mean loss of a token, so an example counts by its length.
        index = self._index(self.folder / "source", folders[-1], loss_reduction="mean")
        approx_unrolling_pipeline(index, HessianConfig(method="kfac", ev_correction=True), unrolling)
        return self._scores(self.folder / "source" / "scores") * [len(row) - 1 for row in self.tokens]

    def magic(self, checkpoints: Sequence[Checkpoint]) -> np.ndarray:
        """MAGIC (Ilyas and Engstrom 2025): the derivative of the training itself; NaN for outputs that are not chosen."""
        del checkpoints
        trainer, state, module, stream = self._training()
        folder = self.folder / "magic"
        steps = str(folder / "steps")
        state = trainer.train(state, stream, save_dir=steps, save_mode="sqrt", inplace=True, max_grad_norm=CLIP)
        queries = Dataset.from_dict({"input_ids": [self.queries[output] for output in self.chosen]})
        config = MagicConfig(run_path=str(folder), save_mode="sqrt", max_grad_norm=CLIP, query=self._query())
        rises = compute_per_query_magic_scores(
            trainer, steps, stream, state, module, queries, len(queries), config, 1, 0, Padding()
        )
        scores = np.full(self.counts, np.nan)
        scores[self.chosen] = -rises.numpy().T
        return scores

    def _tokens(self, contents: list[bytes]) -> list[list[int]]:
        return [row[row != IGNORED].tolist() for row in self.adapter.collate(contents).ids]

    def _export(self, checkpoint: Checkpoint) -> Path:
        """A checkpoint as a `transformers` folder, with room for any batch and a tokenizer that is not used."""
        folder = self.folder / f"checkpoint-{checkpoint.step}"
        if folder.exists():
            return folder
        module: Any = self.model.load(checkpoint)
        if module.config.model_type == "gpt2":
            positions = module.transformer.wpe
            more = torch.zeros(TOKENS - positions.num_embeddings, positions.embedding_dim)
            module.transformer.wpe = torch.nn.Embedding.from_pretrained(torch.cat([positions.weight.data, more]))
        module.config.max_position_embeddings = TOKENS
        module.save_pretrained(folder)
        PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"": 0}, unk_token=""))).save_pretrained(folder)
        return folder

    def _query(self) -> QuerySetConfig:
        return QuerySetConfig(dataset=str(self.folder / "outputs"))

    def _index(self, folder: Path, checkpoint: Path, *, loss_reduction: Any = "sum") -> IndexConfig:
        return IndexConfig(
            run_path=str(folder),
            model=str(checkpoint),
            data=DataConfig(dataset=str(self.folder / "examples")),
            token_batch_size=TOKENS,
            loss_reduction=loss_reduction,
        )

    def _at_each(self, checkpoints: Sequence[Checkpoint], at: Any) -> np.ndarray:
        """Scores at each checkpoint, summed in units of their spread."""
        total = np.zeros(self.counts)
        for checkpoint in checkpoints:
            exported = self._export(checkpoint)
            with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
                folder = Path(scratch) / exported.name
                at(self._index(folder, exported))
                scores = self._scores(folder / "scores")
            total += scores / scores.std()
        return total

    def _scores(self, folder: Path) -> np.ndarray:
        rises, _ = load_scores_loss_signed(str(folder))
        scores: np.ndarray = -rises.double().numpy().T
        return scores

    def _training(self) -> tuple[Trainer, TrainerState, torch.nn.Module, DataStream]:
        """The training of the model served, with bergson's trainer."""
        batches: list[int] = []

        order = in_order(self.contents)

        def note(module: torch.nn.Module, places: list[int], _: torch.Generator) -> tuple[torch.Tensor, int]:
            batches.extend(order[place] for place in places)
            return next(module.parameters()).sum() * 0, 1

        recipe = self.adapter.recipe
        with tempfile.TemporaryDirectory() as scratch:
            train_and_save(self.adapter, self.counts[1], note, seed=self.seed, folder=Path(scratch))
        steps = len(batches) // recipe.batch_size
        module = AutoModelForCausalLM.from_config(self.adapter.config, attn_implementation="eager")
        module.load_state_dict(self.model.load(self.model.card.checkpoints[0]).state_dict())
        module.loss_function = partial(weighted_causal_lm_ce, reduction="mean")
        optimizer = torchopt.adamw(
            lambda step: recipe.learning_rate * schedule((float(step) + 1) / steps, recipe.warmup),
            betas=BETAS, eps=EPSILON, eps_root=EPSILON_ROOT, weight_decay=recipe.weight_decay,
        )  # fmt: skip
        trainer, state = Trainer.initialize(module.eval(), optimizer)
        rows = Dataset.from_dict({"input_ids": [self.tokens[number] for number in batches], "doc_ids": batches})
        stream = DataStream(rows, recipe.batch_size, device="cpu", weight_shape=(self.counts[1],))
        return trainer, state, module, stream

    def _second_moments(self, checkpoints: Sequence[Checkpoint]) -> dict[str, Path]:
        """Adam's state at each checkpoint, which no model folder keeps: folders with `optimizer.pt`."""
        moments = self.folder / "moments"
        folders = {f"checkpoint-{checkpoint.step}": moments / str(checkpoint.step) for checkpoint in checkpoints}
        if moments.exists():
            return folders
        trainer, state, module, stream = self._training()
        for step in range(1, checkpoints[-1].step + 1):
            state = trainer.step(state, stream[step - 1], inplace=True, max_grad_norm=CLIP)
            if (folder := moments / str(step)) in folders.values():
                folder.mkdir(parents=True)
                save_second_moments_as_optimizer_pt(
                    module, state.opt_state, folder / "optimizer.pt", step=step, betas=BETAS, eps=EPSILON, eps_root=EPSILON_ROOT
                )
        return folders


METHODS = {"ekfac_cg": Bergson.ekfac_cg, "trackstar": Bergson.trackstar, "source": Bergson.source, "magic": Bergson.magic}
