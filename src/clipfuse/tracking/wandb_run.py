"""A run at W&B, which may never stop or hold up a training."""

import inspect
import logging
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf
from PIL.Image import Image

from clipfuse.errors import did_you_mean
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
        mode: "auto" is online where a login is found (or as WANDB_MODE says), else offline.
        options: chosen option of groups such as loss, backbone, clip, data; they become tags.
        kwargs: further arguments of `wandb.init`, such as group, tags or entity.

    Raises:
        ValueError: an argument that `wandb.init` does not have.
    """

    def __init__(
        self,
        project: str,
        name: str,
        save_dir: str,
        mode: Literal["auto"] | Mode = "auto",
        options: Mapping[str, str | None] | None = None,
        **kwargs: Any,
    ) -> None:
        import wandb

        known = inspect.signature(wandb.init).parameters
        for key in kwargs.keys() - known.keys():
            raise ValueError(f"wandb.init has no argument '{key}'.{did_you_mean(key, known)}")
        super().__init__(name=name, project=project, save_dir=save_dir, log_model=False, **kwargs)
        self._wandb_init.pop("anonymous", None)  # wandb only warns of it
        self.folder = Path(save_dir).resolve()
        self.mode = mode
        self.options = dict(options or {})
        self.switched_off = False
        # Else a run that somebody has left open in this process would get our values.
        self._wandb_init.setdefault("reinit", "create_new")

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run; a disabled one that swallows everything if W&B cannot start."""
        if self._experiment is None:
            self._experiment = self._start()
        return self._experiment

    def _start(self) -> Any:
        import wandb

        # wandb prefers the git root and complains of a folder that is not there.
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
    def write(self, call: Callable[[Any], Any]) -> None:
        """Do something with the W&B run; if that fails, W&B is switched off and the training goes on."""
        if self.switched_off:
            return
        try:
            with _staged_in(self.folder / "wandb"):
                call(self.experiment)
        except Exception as error:
            log.warning("wandb failed and is switched off; training goes on: %s", error)
            self.switched_off = True

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Start the run under the name of its job and record the configuration."""
        if self._experiment is None:
            self._describe(params)
        self.write(lambda run: WandbLogger.log_hyperparams(self, params))

    def _describe(self, record: Mapping[str, Any]) -> None:
        """Fill in group, job type, tags and name; what the user gave stays."""
        options = {key: option for key, option in self.options.items() if option is not None}
        if "loss" in options:
            options["loss"] = _stem(record["loss"]["_target_"], options["loss"])
        identity = record.get("clip_identity")
        if identity is None:
            options.pop("clip", None)  # one that no loss asks
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
        self.write(lambda run: run.log(dict(metrics)))

    @rank_zero_only
    def log_pictures(self, key: str, pictures: Mapping[str, Any], samples_seen: int | None = None) -> None:
        """Record pictures by caption.

        Args:
            key: name in the log.
            pictures: files or Pillow images.
            samples_seen: place on the x-axis; None: that of the last values.
        """

        def call(run: Any) -> None:
            import wandb

            shown = [wandb.Image(picture, caption=text) for text, picture in pictures.items()]
            run.log({key: shown} | ({} if samples_seen is None else {SAMPLES_SEEN: samples_seen}))

        self.write(call)

    @rank_zero_only
    def log_rows(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Record a table; a cell is a number, a text, a Pillow image or None."""

        def call(run: Any) -> None:
            import wandb

            cells = [
                [wandb.Image(cell, file_type="jpg") if isinstance(cell, Image) else cell for cell in row]
                for row in rows
            ]
            run.log({key: wandb.Table(columns=list(columns), data=cells)})

        self.write(call)

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
        folder = str(Path(run.settings.sync_dir).parent)  # each time the run went on has a folder in it
        if offline:
            return shlex.join(["wandb", "sync", folder])
        return shlex.join(["wandb", "sync", "--include-online", folder]) if late else None


@contextmanager
def _staged_in(folder: Path) -> Iterator[None]:
    """Keep files that await their upload in `folder`; by default W&B keeps them in the home folder."""
    if _STAGING in os.environ:
        yield
        return
    os.environ[_STAGING] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(_STAGING, None)


def _stem(target: str, option: str) -> str:
    """Return the option, or what a custom one stands for: the module of its class."""
    return target.rpartition(".")[0].rpartition(".")[2] if option == "custom" else option


def _varied(sweep: Path, job: str) -> list[str]:
    """Return what tells a job from the others of its sweep and is not in the name of a run anyway."""
    record: Any = OmegaConf.to_container(OmegaConf.load(sweep))
    given = {str(word).lower() for word in record.get("words", [])}
    words: list[str] = next((words for number, words in record["jobs"].items() if str(number) == job), [])
    named = ("loss=", "backbone=", "seed=")
    return [word for word in words if word.lower() not in given and not word.startswith(named)]


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
