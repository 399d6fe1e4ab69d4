"""A run at W&B, whose failures never stop a training and hold it up for a bounded time."""

import inspect
import logging
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from PIL.Image import Image
from pydantic import BaseModel

from clipfuse.errors import UserError, did_you_mean
from clipfuse.files import read_yaml
from clipfuse.ops.settings import plugin_name
from clipfuse.types import SAMPLES_SEEN

log = logging.getLogger(__name__)

# How long a W&B that does not answer may hold up a run, in seconds.
START_S, FINISH_S = 20, 120
FLUSH_S = 5  # what a kill may cost of an offline run

_STAGING = "WANDB_DATA_DIR"
Mode = Literal["online", "offline", "disabled"]


class RunWandbLogger(WandbLogger):
    """Lightning's W&B logger with our x-axis, and with failures turned into one warning.

    One W&B run per run folder: a run that is resumed goes on at W&B too. Its job type is the loss, its
    group the sweep. All it has to upload later lies in the run folder.

    Args:
        project: W&B project.
        name: run name; what its sweep varies, and the seed, are added.
        save_dir: run folder; W&B writes below `wandb/`.
        mode: "auto" is online where a login is found (or the value of WANDB_MODE), else offline.
        options: chosen option of groups such as loss, backbone, clip, data; they become tags.
        images: how many fused test images are kept at full resolution, 0 or more.
        trivial: whether the trivial fusions of the test pairs are scored for the summary.
        kwargs: further arguments of `wandb.init`, such as group, tags or entity.

    Raises:
        ValueError: an argument that `wandb.init` does not have, or `images` below 0.
    """

    def __init__(
        self,
        project: str,
        name: str,
        save_dir: str,
        mode: Literal["auto"] | Mode = "auto",
        options: Mapping[str, str | None] | None = None,
        images: int = 8,
        trivial: bool = True,
        **kwargs: Any,
    ) -> None:
        import wandb

        if images < 0:
            raise ValueError(f"images is {images}; expected 0 or more")

        known = inspect.signature(wandb.init).parameters
        for key in kwargs.keys() - known.keys():
            raise ValueError(f"wandb.init has no argument '{key}'.{did_you_mean(key, known)}")
        self.folder = Path(save_dir).resolve()  # W&B's service would look from where it was started
        super().__init__(name=name, project=project, save_dir=str(self.folder), log_model=False, **kwargs)
        self._wandb_init.pop("anonymous", None)  # wandb only warns of it
        self.mode = mode
        self.options = dict(options or {})
        self.images, self.trivial = images, trivial
        self.switched_off = False
        # Else a run that was left open in this process would get our values.
        self._wandb_init.setdefault("reinit", "create_new")

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run; a disabled one that drops everything if W&B cannot start."""
        if self._experiment is None:
            self._experiment = self._start()
        return self._experiment

    def _start(self) -> Any:
        import wandb

        # wandb prefers the git root, and warns of a folder that does not exist.
        self.folder.mkdir(parents=True, exist_ok=True)
        earlier = next((self.folder / "wandb").glob("*run-*/run-*.wandb"), None)
        if earlier is not None and self._wandb_init["id"] is None:
            self._wandb_init["id"] = earlier.stem.removeprefix("run-")
        settings = wandb.Settings(
            silent=True,
            init_timeout=START_S,
            finish_timeout=FINISH_S,
            finish_timeout_raises=True,
            x_transaction_log_flush_interval=FLUSH_S,
        )
        mode = login_mode() if self.mode == "auto" else self.mode
        attempts: list[Mode] = [mode, "offline"] if mode == "online" else [mode]
        for attempt in attempts:
            try:
                run = wandb.init(**self._wandb_init, mode=attempt, settings=settings)
                run.define_metric(SAMPLES_SEEN)
                run.define_metric("*", step_metric=SAMPLES_SEEN)
                return run
            except Exception as error:
                log.warning("wandb could not start in mode '%s' and training goes on: %s", attempt, error)
        return wandb.init(mode="disabled", settings=settings)

    @rank_zero_only
    def _write(self, call: Callable[[Any], Any]) -> None:
        """Call a function with the W&B run; if that fails, W&B is switched off and the training goes on."""
        if self.switched_off:
            return
        ours = _STAGING not in os.environ
        if ours:  # else wandb keeps files that await their upload in the home folder
            os.environ[_STAGING] = str(self.folder / "wandb")
        try:
            call(self.experiment)
        except Exception as error:
            log.warning("wandb failed and is switched off; training goes on: %s", error)
            self.switched_off = True
        finally:
            if ours:
                os.environ.pop(_STAGING, None)

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Start the run under the name of its job and record the configuration."""
        if self._experiment is None:
            self._describe(params)
        self._write(lambda run: WandbLogger.log_hyperparams(self, params))

    def _describe(self, record: Mapping[str, Any]) -> None:
        """Fill in group, job type, tags and name; what the user gave stays."""
        options = {key: option for key, option in self.options.items() if option is not None}
        if options.get("loss") == "custom":  # named by the module of its class
            options["loss"] = plugin_name(record["loss"]["_target_"])
        identity = record.get("clip_identity")
        if identity is None:
            options.pop("clip", None)  # chosen, but not used by the loss
        elif options.get("clip") == "custom":
            identities = identity if isinstance(identity, list) else [identity]
            options["clip"] = "+".join(each["model"] for each in identities)
        given = self._wandb_init
        given.setdefault("job_type", options.get("loss", "evaluate"))
        tags = [f"{key}={option}"[:64] for key, option in options.items()]  # W&B takes no longer ones
        given["tags"] = [*tags, *(given.get("tags") or [])]
        words = [f"seed={record['seed']}"] if "seed" in record else []
        sweep = self.folder.parent / "sweep.yaml"
        if sweep.is_file():
            given.setdefault("group", self.folder.parent.name)
            words = [*_varied(sweep, self.folder.name), *words]
        given["name"] = " ".join([given["name"], *words])[:128]

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record values; the x-axis is among them."""
        self._write(lambda run: run.log(dict(metrics)))

    @rank_zero_only
    def log_images(self, key: str, images: Mapping[str, Path | Image], samples_seen: int) -> None:
        """Record images by caption."""
        import wandb

        def call(run: Any) -> None:
            shown = [wandb.Image(image, caption=caption) for caption, image in images.items()]
            run.log({key: shown, SAMPLES_SEEN: samples_seen})

        self._write(call)

    @rank_zero_only
    def log_rows(
        self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], samples_seen: int
    ) -> None:
        """Record a table, with its images."""
        import wandb

        def call(run: Any) -> None:
            cells = [
                [wandb.Image(cell, file_type="jpg") if isinstance(cell, Image) else cell for cell in row]
                for row in rows
            ]
            run.log({key: wandb.Table(columns=list(columns), data=cells), SAMPLES_SEEN: samples_seen})

        self._write(call)

    @rank_zero_only
    def log_best(
        self, scores: Mapping[str, float], checkpoints: Mapping[str, Path], samples_seen: int
    ) -> None:
        """Record scores in the summary, and the checkpoints as the artifact `model-ID`."""
        import wandb

        def call(run: Any) -> None:
            run.summary.update({f"best/{name}": score for name, score in scores.items()})
            if checkpoints:
                artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata=dict(scores))
                for path in checkpoints.values():
                    # Nothing changes a checkpoint of a finished run, so it need not be copied.
                    artifact.add_file(str(path), policy="immutable", skip_cache=True)
                run.log_artifact(artifact, aliases=list(checkpoints))

        self._write(call)

    @rank_zero_only
    def log_summary(self, values: Mapping[str, Any]) -> None:
        """Record values in the summary."""
        self._write(lambda run: run.summary.update(dict(values)))

    @rank_zero_only
    def finish(self, failed: bool) -> str | None:
        """Close the run, marked as failed or not.

        Returns:
            The command that uploads an offline run, or the rest of one online, later, else None.
        """
        run = self._experiment
        if run is None or run.disabled:
            return None
        offline, late = run.settings.mode == "offline", False
        try:
            run.finish(exit_code=int(failed))
        except TimeoutError:
            late = True
        except Exception as error:
            log.warning("wandb failed at the end of the run: %s", error)
        folder = str(Path(run.settings.sync_dir).parent)  # one folder in it for each start of the run
        words = ["wandb", "sync", *([] if offline else ["--include-online"]), folder]
        return shlex.join(words) if offline or late else None


class _SweepRecord(BaseModel):
    words: list[str] = []
    jobs: dict[int, list[str]]


def _varied(sweep: Path, job: str) -> list[str]:
    """Return the overrides that distinguish a job from the others of its sweep and are not in its name."""
    try:
        record = read_yaml(sweep, _SweepRecord)
    except UserError:
        return []  # a name without them is a name
    common = {word.lower() for word in record.get("words", [])}
    jobs: dict[int, list[str]] = record["jobs"]
    words: list[str] = next((words for number, words in jobs.items() if str(number) == job), [])
    named = ("loss=", "backbone=", "seed=")
    return [word for word in words if word.lower() not in common and not word.startswith(named)]


def login_mode() -> Mode:
    """Return what "auto" means here: WANDB_MODE if it is set, else online where a login is found."""
    import wandb

    asked = os.environ.get("WANDB_MODE")
    if asked is not None:
        return "online" if asked == "online" else "disabled" if asked == "disabled" else "offline"
    try:
        return "online" if wandb.login(prompt=False) else "offline"
    except Exception:
        return "offline"
