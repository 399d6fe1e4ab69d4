"""Training: one backbone, one loss, one solver, manual optimisation."""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from statistics import fmean
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MetricCollection

from clipfuse.bilevel import Joint, OnceDifferentiableError, Solver
from clipfuse.errors import UserError, reason
from clipfuse.losses.base import FusionLoss, LossArtifacts
from clipfuse.ops.noise import seeded_noise
from clipfuse.ops.ranks import gather_objects
from clipfuse.training.accumulation import AccumulatingOptimizer
from clipfuse.training.curves import UpdateRows, mean_by_name
from clipfuse.training.first_checks import check_hypergradient, check_range, check_validation
from clipfuse.training.interrupts import stopped_early
from clipfuse.training.learned_chroma import LearnedChroma
from clipfuse.training.loss_errors import VALIDATION, named_failures
from clipfuse.training.parameter_groups import grouped, optimizer_of
from clipfuse.training.passes import FurtherPass, Teacher
from clipfuse.training.randomness import random_state, restore_random_state
from clipfuse.training.scoring import ScoringModule, naming, scored_images
from clipfuse.training.stepping import LossProblem, NonFiniteLossError, both_levels, lower_parameters
from clipfuse.types import SAMPLES_SEEN, FusionBatch, LossInputs

log = logging.getLogger(__name__)


class FusionModule(ScoringModule):
    """Trains a backbone under a loss.

    Args:
        backbone: (infrared, visible) -> `FusionOutput`.
        loss: the plugin.
        optimizer: parameters -> optimiser.
        scheduler: (optimiser, number of updates) -> learning-rate schedule.
        metrics: the metrics of the test, as in `ScoringModule`.
        validation_metrics: the metrics of each validation; a copy is used.
        seed: seeds every random draw of the loss.
        accumulate: micro-batches per update, 1 or more.
        gradient_clip: largest L2 norm of the gradient; None does not clip.
        input_noise: standard deviation of Gaussian noise added to the network's inputs in training, in
            [0, 1]; the loss gets the images without noise.
        skip_nonfinite: how many batches of a training may have a NaN or infinite loss or gradient; such a
            batch moves nothing. One more ends the training with an error.
        solver: takes the steps of network and loss; by default `Joint`, one step of both together.
        config: the run's whole configuration in plain types, saved in the checkpoint.

    Raises:
        ValueError: `accumulate` below 1, `gradient_clip` not positive or `input_noise` outside [0, 1].
    """

    def __init__(
        self,
        backbone: nn.Module,
        loss: FusionLoss,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[..., LRScheduler],
        metrics: MetricCollection,
        validation_metrics: MetricCollection,
        seed: int = 0,
        accumulate: int = 1,
        gradient_clip: float | None = None,
        input_noise: float = 0.0,
        skip_nonfinite: int = 0,
        solver: Solver | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(backbone, metrics)
        if accumulate < 1:
            raise ValueError(f"accumulate is {accumulate}; expected 1 or more micro-batches per update")
        if gradient_clip is not None and gradient_clip <= 0:
            raise ValueError(f"gradient_clip is {gradient_clip}; expected a norm above 0, or null for none")
        if not 0 <= input_noise <= 1:
            raise ValueError(f"input_noise is {input_noise}; expected a standard deviation from 0 to 1")
        self.automatic_optimization = False
        self.loss = loss
        self.solver = solver or Joint()
        if not isinstance(self.solver, Joint):
            # The solver updates the lower level itself; the optimiser and DDP must not expect its gradients.
            for parameter in lower_parameters(loss):
                parameter.requires_grad_(False)
        self.seed = seed
        self.accumulate = accumulate
        self.gradient_clip = gradient_clip
        self.input_noise = input_noise
        self.config = dict(config or {})
        self.objective = ""  # a score that must exist, as those that callbacks monitor
        self.samples_seen = 0
        self.skip_nonfinite = skip_nonfinite
        self.skipped = 0
        self.teacher: Teacher | None = None
        self._loaded_teacher: dict[str, Tensor] | None = None
        self.loss_images: Mapping[str, Tensor] = {}  # of the last micro-batch
        self._random_state: dict[str, Any] | None = None
        self._rows = UpdateRows()
        self._learned_chroma = LearnedChroma()
        self._optimizer = optimizer
        self._scheduler = scheduler
        self.val_metrics = validation_metrics.clone(prefix="val/metric/")
        self._val_losses: dict[str, list[float]] = defaultdict(list)

    def loss_inputs(self, batch: FusionBatch, noise: float = 0.0) -> LossInputs:
        """Run the backbone and return the inputs of the loss; features keep the backbone's precision."""
        infrared, visible = batch.infrared, batch.visible
        if noise:
            bands = torch.cat([infrared, visible], dim=1)
            bands = seeded_noise(bands, noise, self.seed, self.global_step, batch.sample_ids)
            infrared, visible = bands.split(1, dim=1)
        output = self(infrared, visible, batch.chroma)
        fused, chroma = self._learned_chroma(output, batch)
        steps, device = self.trainer.max_steps, self.device.type
        taught = None if self.teacher is None else self.teacher.weights
        return LossInputs(
            fused=fused,
            infrared=batch.infrared,
            visible=batch.visible,
            chroma=batch.chroma,
            features=output.features,
            sample_ids=batch.sample_ids,
            step=self.global_step,
            seed=self.seed,
            target_mask=batch.target_mask,
            reference=batch.reference,
            classes=batch.classes,
            boxes=batch.boxes,
            captions=batch.captions,
            fused_chroma=chroma,  # type: ignore[arg-type]  # None: that of the visible images
            total_steps=steps if steps > 0 else None,
            network=FurtherPass(self.backbone, device),
            teacher=None if taught is None else FurtherPass(self.backbone, device, taught),
        )

    def _full_precision(self) -> torch.autocast:
        """Turn autocast off: losses are computed in float32, as Sobel fields in bf16 lose fine edges."""
        return torch.autocast(self.device.type, enabled=False)

    def on_fit_start(self) -> None:
        """Set the loss up with one training crop, and refuse a network or a loss that cannot work."""
        if self.trainer.precision == "64-true":
            # Lightning does not convert a CLIP, which is kept out of the module tree.
            for part in self.loss.modules():
                if (clip := getattr(part, "clip", None)) is not None:
                    clip.to(dtype=torch.float64)
        if (decay := self.loss.required_teacher()) is not None:
            self.teacher = Teacher(self.backbone, decay)
            if self._loaded_teacher is not None:
                self.teacher.load(self._loaded_teacher)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        batch = self.transfer_batch_to_device(data.example(), self.device, 0)
        batch = self.trainer.precision_plugin.convert_input(batch)
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            inputs = self.loss_inputs(batch)
        check_range(self.backbone, inputs.fused)
        with named_failures(self.loss, inputs, "before the first update"), self._full_precision():
            try:
                self.loss.check_labels(inputs)
                self.loss.setup(inputs)
            except ValueError as error:
                raise UserError(f"{error}" or f"the loss {self.loss.name}: {reason(error)}") from error
            monitors = [getattr(each, "monitor", None) for each in self.trainer.callbacks]  # type: ignore[attr-defined]
            check_validation(self.loss, inputs, monitors, self.objective)
            if not self.global_step:
                check_hypergradient(self.loss, inputs, self.solver)

    def on_train_start(self) -> None:
        """Wrap optimiser and schedule, which Lightning has just built, for the solver."""
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer)
        assert isinstance(scheduler, LRScheduler)
        self._stepper = AccumulatingOptimizer(
            optimizer, scheduler, self._groups, self.accumulate, self.gradient_clip
        )
        if self._random_state is not None:
            restore_random_state(self._random_state)

    @property
    def between_updates(self) -> bool:
        """Whether no micro-batch waits for an update: only then can the run be saved and resumed."""
        return self._stepper.micro_batch == 0

    def training_step(self, batch: FusionBatch, batch_idx: int) -> None:
        """State the batch as a problem and let the solver take one step."""
        inputs = self.loss_inputs(batch, self.input_noise)
        with self._full_precision():
            problem = LossProblem(self.loss, inputs)
            try:
                solved = self.solver.step(problem, self._stepper, backward=partial(self._backward, problem))
            except NonFiniteLossError as error:
                self._skip(batch_idx, batch, error)
                return
            except OnceDifferentiableError as error:
                raise UserError(f"the loss '{self.loss.name}': {error}") from error
        found = problem.upper
        terms = {f"train/loss/{self.loss.name}/{name}": value for name, value in found.terms}
        self.loss_images = found.output.images
        lower = problem.lower.terms if problem.lower is not None else ()
        terms |= {f"train/lower/{self.loss.name}/{name}": value for name, value in lower}
        update, samples = self.global_step - self.between_updates, ", ".join(batch.sample_ids[:4])
        self._rows.add(found.total, terms, f"at update {update} on samples {samples}")
        self._count(batch_idx, batch)
        # On the host, where it has been read: Lightning would copy a number to a GPU, and back for the bar.
        loss = torch.tensor(found.total)
        self.log("loss", loss, batch_size=len(batch), prog_bar=True, logger=False)
        if self.between_updates and self._stepper.skipped:
            self._rows.clear()  # of an earlier micro-batch; this one changed nothing either
        elif self.between_updates:
            self._log_update(solved)

    def _count(self, batch_idx: int, batch: FusionBatch) -> None:
        self.samples_seen = (batch_idx + 1) * len(batch) * self.trainer.world_size
        if self.teacher is not None and self.between_updates:
            self.teacher.follow(self.global_step)

    def _skip(self, batch_idx: int, batch: FusionBatch, error: NonFiniteLossError) -> None:
        """Skip the update; steps that the solver has already taken in the lower level are kept."""
        self.skipped += 1
        if self.skipped > self.skip_nonfinite:
            if not self.skip_nonfinite:
                raise error
            raise UserError(f"{error}; skip_nonfinite={self.skip_nonfinite} batches were skipped before")
        log.warning("skipped batch %d of %d: %s", self.skipped, self.skip_nonfinite, error)
        self._stepper.leave_out()
        self._count(batch_idx, batch)
        if self.between_updates:
            self._rows.clear()

    def on_train_batch_end(self, *arguments: Any) -> None:
        """Stop between updates only: half an update can be neither saved nor resumed."""
        if not self.between_updates:
            self.trainer.should_stop = False  # the timer sets it again after the next batch

    def _log_update(self, solved: Mapping[str, float]) -> None:
        """Log one row of the curves: means over the micro-batches of one update and over all ranks."""
        row = self._rows.take()
        if self.global_step % self.trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        row |= {f"train/solver/{name}": value for name, value in solved.items()}
        row = mean_by_name(row, partial(self.trainer.strategy.reduce, reduce_op="mean"), self.device)
        rates = self._stepper.scheduler.get_last_lr()
        for group, rate in zip(self._groups, rates, strict=True):
            row[f"train/learning_rate/{group.name}".removesuffix("/")] = float(rate)
        for name, norm in self._stepper.gradient_norms.items():
            row[f"train/gradient_norm/{name}".removesuffix("/")] = float(norm)
        if self.skip_nonfinite:
            row["train/skipped"] = self.skipped
        # Not by self.log, with which Lightning would repeat old values in every later row.
        for logger in self.loggers:
            logger.log_metrics({SAMPLES_SEEN: self.samples_seen, **row}, step=self.global_step)

    def _backward(self, problem: LossProblem, loss: Tensor) -> None:
        strategy = self.trainer.strategy
        apart: AbstractContextManager[Any] = nullcontext()
        if isinstance(strategy, ParallelStrategy) and not self._stepper.updates_next:
            # Ranks exchange gradients once per update, not once per micro-batch.
            apart = strategy.block_backward_sync()
        with (
            apart,
            named_failures(self.loss, problem.inputs, f"in its gradient at update {problem.inputs.step}"),
        ):
            self.manual_backward(loss / self.accumulate)
        self._stepper.check(problem)

    def validation_step(self, batch: FusionBatch, batch_idx: int) -> dict[str, Tensor]:
        """Score one batch with the metrics and with the loss itself; callbacks get fused luma and chroma."""
        inputs = self.loss_inputs(batch)
        when = f"at the validation after update {self.global_step}"
        with named_failures(self.loss, inputs, when, VALIDATION), self._full_precision():
            output, lower = both_levels(self.loss, inputs)
        with naming(batch.sample_ids):
            images = scored_images(self.val_metrics, inputs.fused, batch, inputs.fused_chroma)
            self.val_metrics.update(**images, target_mask=batch.target_mask)
        terms = {f"val/loss/{self.loss.name}/{name}": value for name, value in output.terms.items()}
        terms |= {f"val/lower/{self.loss.name}/{name}": value for name, value in lower.items()}
        for name, value in {"val/loss/total": output.total, **terms}.items():
            self._val_losses[name] += [float(value)] * len(batch)
        return {"fused": inputs.fused, "chroma": inputs.fused_chroma}

    def artifacts(self, batch: FusionBatch) -> LossArtifacts | None:
        """Return the texts and images of the loss for a validation batch, which is one pair."""
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            inputs = self.loss_inputs(batch)
            with named_failures(self.loss, inputs, "in its notes", VALIDATION), self._full_precision():
                return self.loss.artifacts(inputs)

    def on_validation_epoch_end(self) -> None:
        """Log the means under the same x-axis as the training curves."""
        self._learned_chroma.report(self.loss.name)
        self.log_means(self.val_metrics, "val")
        # Not by self.log: the images of one rank may have terms that those of another rank lack.
        parts = gather_objects(dict(self._val_losses))
        names = dict.fromkeys(name for part in parts for name in part)
        losses = {name: [value for part in parts for value in part.get(name, ())] for name in names}
        self.log_dict({name: fmean(values) for name, values in losses.items() if values})
        self.forget(name for name, values in losses.items() if not values)
        for values in self._val_losses.values():
            values.clear()
        # "step" names the row for the loggers.
        self.log_dict({SAMPLES_SEEN: float(self.samples_seen), "step": float(self.global_step)})

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimiser of all parameters that learn, and its schedule over the whole training."""
        self._groups = grouped(self, self.loss)
        optimizer = optimizer_of(self._optimizer, self._groups)
        scheduler = self._scheduler(optimizer, steps=self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add configuration, counts, scores, and the states of solver and random generators.

        The states of timers are removed: a resumed training has the whole `max_time` again.
        """
        states = checkpoint.get("callbacks", {})
        for key in [key for key in states if key.startswith("Timer")]:
            del states[key]
        for key in [key for key in states if key.startswith("ModelCheckpoint")]:
            states[key].pop("current_score", None)  # Lightning does not restore it
        checkpoint["clipfuse"] = {
            "config": self.config,
            "solver": self.solver.state_dict(),
            "random": random_state(),
            **({} if self.teacher is None else {"teacher": self.teacher.weights}),
            "samples_seen": self.samples_seen,
            "skipped": self.skipped,
            "stopped": stopped_early(self.trainer),
            "scores": {name: float(v) for name, v in self.trainer.callback_metrics.items() if v.isfinite()},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore counts and solver; the random generators are restored when the training begins."""
        state = checkpoint["clipfuse"]
        self.solver.load_state_dict(state["solver"])
        self._random_state = state["random"]
        self._loaded_teacher = state.get("teacher")
        self.samples_seen, self.skipped = state["samples_seen"], state["skipped"]
