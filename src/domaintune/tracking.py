"""Where a training is logged beside its run folder: TensorBoard, MLflow, Weights & Biases. Each library is an extra, imported only
when it is asked for; by default nothing leaves the machine."""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from domaintune.engine.epochs import Progress
from domaintune.errors import RecipeError
from domaintune.recipe import Recipe
from domaintune.run import PAGE, RunFolder, flatten, read_json, write_json
from domaintune.tasks import TASKS

IDENTITIES = "tracking.json"
MLFLOW_STORE = "sqlite:///mlflow.db"
POINTS = 200
"""So many steps of a training are logged at most; its epochs all are."""


class Tracker(Protocol):
    """One place that takes numbers and files. `identity` is what a resumed run is found again by."""

    identity: str

    def numbers(self, values: Mapping[str, float], *, step: int) -> None: ...

    def file(self, path: Path) -> None: ...

    def close(self, *, finished: bool) -> None: ...


class TensorBoard:
    """Event files in the run's folder `tensorboard`."""

    def __init__(self, recipe: Recipe, identity: str | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.identity = identity or "tensorboard"
        self.writer = SummaryWriter(str(Path(recipe.output) / "tensorboard"))
        settings = "\n".join(f"    {key}: {value}" for key, value in flatten(recipe.plain()).items())
        self.writer.add_text("recipe", settings, 0)

    def numbers(self, values: Mapping[str, float], *, step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def file(self, path: Path) -> None:
        """As text; a page's would be its source."""
        if path.suffix == ".html":
            return
        text = path.read_text(encoding="utf-8")
        self.writer.add_text(path.name, text if path.suffix != ".json" else f"```\n{text}\n```", 0)

    def close(self, *, finished: bool) -> None:
        self.writer.close()


PARAMETER = re.compile(r"[^\w.\- ]")
"""What no name of MLflow's may hold; labels of `data.label_map` are names too."""


class MLflow:
    """A run of the experiment "domaintune" in `mlflow.db` of the working folder, or where MLFLOW_TRACKING_URI points."""

    def __init__(self, recipe: Recipe, identity: str | None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # 7, its default, hold training up for minutes
        import mlflow
        from mlflow.exceptions import MlflowException

        uri = os.environ.get("MLFLOW_TRACKING_URI", MLFLOW_STORE)
        try:
            self.client = mlflow.MlflowClient(tracking_uri=uri)
            experiment = self.client.get_experiment_by_name("domaintune")
            place = self.client.create_experiment("domaintune") if experiment is None else experiment.experiment_id
            if identity is None:
                identity = self.client.create_run(place, run_name=recipe.output).info.run_id
                for key, value in flatten(recipe.plain()).items():
                    self.client.log_param(identity, PARAMETER.sub("_", key), value)
            else:
                self.client.set_terminated(identity, "RUNNING")
        except MlflowException as error:
            raise RecipeError(
                f"MLflow cannot be reached ({str(error).splitlines()[0]}).",
                where=f"track {uri}",
                remedy="Check MLFLOW_TRACKING_URI, or leave mlflow out.",
            ) from None
        self.identity = identity

    def numbers(self, values: Mapping[str, float], *, step: int) -> None:
        for name, value in values.items():
            self.client.log_metric(self.identity, name, value, step=step)

    def file(self, path: Path) -> None:
        self.client.log_artifact(self.identity, str(path))

    def close(self, *, finished: bool) -> None:
        self.client.set_terminated(self.identity, "FINISHED" if finished else "KILLED")


class WeightsAndBiases:
    """A run of the project "domaintune", in the run's folder `wandb`; `wandb sync` sends one that was made offline."""

    def __init__(self, recipe: Recipe, identity: str | None) -> None:
        os.environ.setdefault("WANDB_MODE", "offline")
        if os.environ["WANDB_MODE"] == "offline":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self.identity = identity or secrets.token_hex(4)
        self.run = wandb.init(
            project="domaintune",
            name=recipe.output,
            id=self.identity,
            resume="allow" if os.environ["WANDB_MODE"] == "online" else None,
            dir=recipe.output,
            config=recipe.plain(),
            settings=wandb.Settings(console="off", silent=True),
        )
        self.run.define_metric("*", step_metric="step")

    def numbers(self, values: Mapping[str, float], *, step: int) -> None:
        self.run.log({**values, "step": step})

    def file(self, path: Path) -> None:
        self.run.save(str(path), base_path=str(path.parent), policy="now")

    def close(self, *, finished: bool) -> None:
        self.run.finish(exit_code=0 if finished else 1)


TRACKERS: dict[str, Callable[[Recipe, str | None], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WeightsAndBiases,
}


def require(names: Sequence[str]) -> None:
    """
    Raises:
        RecipeError: a library that is not installed.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise RecipeError(
                f"the library {name} is not installed.",
                where=f"--track {name}",
                remedy=f'Install it: pip install "domaintune[{name}]".',
            )


class Tracking:
    """Callable that `tune` reports to: passes everything on to `report`, and training to the trackers. A tracker that fails, as when its
    server goes away, is said to `say` and left out from then on: training does not depend on it."""

    def __init__(
        self,
        trackers: Sequence[Tracker],
        recipe: Recipe,
        report: Callable[[str, Progress | None], None],
        say: Callable[[list[str]], None] = lambda lines: None,
    ) -> None:
        self.trackers, self.report, self.say = list(trackers), report, say
        self.primary = TASKS[recipe.task.name].primary

    def __call__(self, stage: str, progress: Progress | None) -> None:
        if progress is not None and (values := self._values(progress)):
            self._numbers({f"{stage}/{name}": value for name, value in values.items()}, step=progress.step)
        self.report(stage, progress)

    def _values(self, progress: Progress) -> dict[str, float]:
        if progress.score is not None:
            sign = 1.0 if self.primary.higher_is_better else -1.0
            return {f"dev/{self.primary.name}": sign * progress.score}
        if progress.step % max(1, progress.total_steps // POINTS) == 0:
            return {"loss": progress.loss, "learning_rate": progress.learning_rate}
        return {}

    def result(self, folder: RunFolder) -> None:
        """Log the final scores and the run's report."""
        scores = folder.read("scores.json")
        self._numbers(final_numbers(scores), step=0)
        files = [folder.path / name for name in ("scores.json", PAGE) if (folder.path / name).is_file()]
        self._each(lambda tracker: _log_files(tracker, files))

    def _numbers(self, values: Mapping[str, float], *, step: int) -> None:
        self._each(lambda tracker: tracker.numbers(values, step=step))

    def close(self, *, finished: bool) -> None:
        self._each(lambda tracker: tracker.close(finished=finished))

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for tracker in list(self.trackers):
            try:
                act(tracker)
            except Exception as error:  # noqa: BLE001  every library has its own
                self.trackers.remove(tracker)
                why = (str(error).splitlines() or [""])[0]
                self.say(
                    [
                        f"note: {type(tracker).__name__} failed ({type(error).__name__}: {why}); nothing more is logged there."
                    ]
                )


def _log_files(tracker: Tracker, paths: Sequence[Path]) -> None:
    for path in paths:
        tracker.file(path)


def final_numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    """ "domain/base/accuracy", "general/chosen/accuracy", "domain/gain", ...: the confirmed values of a run's scores."""
    chosen = f"{scores['chosen_strength']:g}"
    made: dict[str, float | None] = {"chosen_strength": scores["chosen_strength"]}
    for side in ("domain", "general"):
        if scores[side] is None:
            continue
        for word, key in (("base", "0"), ("chosen", chosen), ("tuned", "1")):
            made |= {f"{side}/{word}/{name}": e["value"] for name, e in scores[side]["scores"][key].items()}
        kind, value = scores[side]["kind"], scores[side]["change"][chosen]["value"]
        if value is not None and "difference" in kind:
            made[f"{side}/score_change"] = value - 1
        else:
            made[f"{side}/{kind.split()[0]}"] = value
    return {name: float(value) for name, value in made.items() if value is not None}


@contextmanager
def tracked(
    recipe: Recipe,
    report: Callable[[str, Progress | None], None],
    say: Callable[[list[str]], None] = lambda lines: None,
) -> Iterator[Tracking]:
    """Open the recipe's trackers, those of an earlier, killed process again; closed at the end, whatever happens. `say` is told of one
    that fails on the way."""
    path = Path(recipe.output) / IDENTITIES
    known = read_json(path) if path.is_file() else {}
    told, finished = Tracking([], recipe, report, say), False
    try:
        for name in dict.fromkeys(recipe.track):
            tracker = _opened(name, recipe, known.get(name))
            told.trackers.append(tracker)
            known = {**known, name: tracker.identity}
        if told.trackers:
            write_json(path, {name: known[name] for name in dict.fromkeys(recipe.track)})
        yield told
        finished = True
    finally:
        told.close(finished=finished)


def _opened(name: str, recipe: Recipe, identity: str | None) -> Tracker:
    try:
        return TRACKERS[name](recipe, identity)
    except ImportError as error:
        raise RecipeError(
            f"the library {name} that is installed cannot be used ({error}).",
            where=f"--track {name}",
            remedy=f'Upgrade it: pip install -U "domaintune[{name}]".',
        ) from error
