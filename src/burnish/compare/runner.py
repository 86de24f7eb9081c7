"""The models of one comparison, loaded on demand and one at a time."""

import shutil
from collections.abc import Mapping
from dataclasses import replace

from burnish.compare.forgetting import Forgetting, load_general_set, measure_forgetting
from burnish.compare.routes import ROUTES, ComparisonSetup
from burnish.compare.teacher_ceiling import CEILING, TeacherEngine
from burnish.compare.verdict import TRAINED_ROUTES, surely_worse
from burnish.core.atomic import atomic_folder, hash_json
from burnish.core.progress import say
from burnish.core.recipe.data import Task
from burnish.core.recipe.evaluate import Evaluate
from burnish.core.records import Scores
from burnish.core.runs import Run
from burnish.data.split import sample_rows
from burnish.engines.answerers.registry import open_teacher
from burnish.engines.protocol import Engine
from burnish.engines.registry import open_engine
from burnish.evaluate.latency import Timing
from burnish.evaluate.prediction_cache import Measurement, evaluate_cached, latency_cached
from burnish.evaluate.scoring import PromptSet
from burnish.models.find_artifact import hash_weights

#: Questions after which a route may be given up: at most a quarter of the rows, as a route that
#: isn't given up is asked them again.
_LOOK = 256


class RouteRunner:
    """Trains, opens, asks and times the routes; each training once."""

    def __init__(self, setting: ComparisonSetup, run: Run) -> None:
        self.setting, self.run = setting, run
        self.trainings: dict[str, Run] = {}
        self.loaded: tuple[str, Engine] | None = None

    @property
    def stops_early(self) -> bool:
        """Whether there are enough questions to judge a route by some of them."""
        rows, settings = self.setting.rows, self.setting.recipe.compare
        return settings.stop_hopeless and len(rows) >= 4 * _LOOK

    def measure(self, name: str, measured: Mapping[str, Scores]) -> Measurement:
        """Measure one route on the test rows; on some of them, if it is surely worse on these than
        a route measured before."""
        source = self._source(name)
        engine = self._open_engine(source)
        identity = _identity(engine, source)
        prompts = ROUTES[name].make_prompts(self.setting, engine)
        prompt_set = PromptSet(self.setting.rows, prompts, f"Asking {name}")
        ceiling_or_trained = name == CEILING or name in TRAINED_ROUTES
        scores = (
            None
            if ceiling_or_trained
            else self._score_if_hopeless(identity, engine, prompt_set, measured)
        )
        scores = scores or self._score(identity, engine, prompt_set)
        if isinstance(engine, TeacherEngine):
            # Remote answers were timed on the way; asking again costs money.
            timing = Timing([prediction.seconds for prediction in scores.predictions])
        else:
            timing = latency_cached(name, identity, engine, prompts)
        self.run.events.write(event="measured", route=name, value=scores.interval.value)
        return Measurement(scores, timing.seconds, engine.memory_bytes, timing.busy)

    def _score_if_hopeless(
        self, identity: str, engine: Engine, prompt_set: PromptSet, measured: Mapping[str, Scores]
    ) -> Scores | None:
        """Return scores on a drawn part of the questions, if they suffice to give the route up."""
        recipe = self.setting.recipe
        if not self.stops_early or not measured:
            return None
        drawn = {row.id for row in sample_rows(prompt_set.rows, _LOOK, recipe.evaluate.seed)}
        pairs = zip(prompt_set.rows, prompt_set.prompts, strict=True)
        rows, prompts = zip(
            *((row, prompt) for row, prompt in pairs if row.id in drawn), strict=True
        )
        part = PromptSet(rows, prompts, f"{prompt_set.label}, {len(rows)} drawn questions")
        scores = self._score(identity, engine, part)
        if (better := surely_worse(scores, measured)) is None:
            return None
        say(
            f"{prompt_set.label}: given up after {len(rows)} of {len(prompt_set.rows)} questions, "
            f"surely worse than {better} (compare.stop_hopeless=false asks them all)."
        )
        return scores

    def reseed(self, name: str) -> dict[int, Scores]:
        """Return the scores of a trained route by seed, for the recipe's number of further
        seeds."""
        recipe = self.setting.recipe
        seeds = range(recipe.train.seed + 1, recipe.train.seed + recipe.compare.seeds)
        return {seed: self._score_with_seed(name, seed) for seed in seeds}

    def _score_with_seed(self, name: str, seed: int) -> Scores:
        setting, route = self.setting, ROUTES[name]
        train = setting.recipe.train.model_copy(update={"seed": seed})
        setting = replace(setting, recipe=setting.recipe.model_copy(update={"train": train}))
        say(f"Training for {name} with seed {seed}")
        self.loaded = None
        assert route.training_rows is not None
        dataset = replace(setting.dataset, split=route.training_rows(setting))
        source = str(route.train(setting.recipe, dataset).artifact)
        engine = self._open_engine(source)
        prompt_set = PromptSet(
            setting.rows, route.make_prompts(setting, engine), f"Asking {name}, seed {seed}"
        )
        return self._score(hash_weights(source), engine, prompt_set)

    def _score(self, identity: str, engine: Engine, prompt_set: PromptSet) -> Scores:
        """Return the deciding scores: those of a text metric, or the judge's grades of the same
        answers."""
        judge, settings = self.setting.judge, self.setting.recipe.evaluate
        scores = evaluate_cached(identity, engine, prompt_set, self.setting.dataset.task, settings)
        return judge.grade(scores, prompt_set.rows, settings) if judge else scores

    def save_artifact(self, judged: str) -> None:
        """Copy the judged route's trained model into the comparison's own folder."""
        if not self.run.artifact.exists():
            with atomic_folder(self.run.artifact) as draft:
                shutil.copytree(self.trainings[judged].artifact, draft, dirs_exist_ok=True)

    def measure_forgetting(self, judged: str) -> Forgetting:
        """Compare the general question set before and after."""
        return measure_forgetting(self._score_general_set("base"), self._score_general_set(judged))

    def _score_general_set(self, name: str) -> Scores:
        source = self._source(name)
        prompt_set = replace(load_general_set(), label=f"General questions, {name}")
        task = Task(kind="classification")
        settings = Evaluate(confidence=self.setting.recipe.evaluate.confidence)
        return evaluate_cached(
            hash_weights(source), self._open_engine(source), prompt_set, task, settings
        )

    def _source(self, name: str) -> str:
        """Return the name of the base or the teacher, or the folder of the route's trained
        model."""
        if name == CEILING:
            teacher = self.setting.recipe.distill.teacher
            # A remote model may have the name of a local one.
            return f"{teacher.endpoint} {teacher.model}" if teacher.endpoint else teacher.model
        training_rows = ROUTES[name].training_rows
        if training_rows is None:
            return self.setting.recipe.model.name
        if name not in self.trainings:
            self.loaded = None
            say(f"Training for {name}")
            dataset = replace(self.setting.dataset, split=training_rows(self.setting))
            self.trainings[name] = ROUTES[name].train(self.setting.recipe, dataset)
        return str(self.trainings[name].artifact)

    def _open_engine(self, source: str) -> Engine:
        if self.loaded is None or self.loaded[0] != source:
            self.loaded = None
            teacher = self.setting.recipe.distill.teacher
            is_remote = teacher.endpoint and source.startswith(f"{teacher.endpoint} ")
            engine = (
                TeacherEngine(open_teacher(self.setting.recipe))
                if is_remote
                else open_engine(source)
            )
            self.loaded = (source, engine)
        return self.loaded[1]


def _identity(engine: Engine, source: str) -> str:
    """Return a hash of everything that the answers depend on besides the question."""
    if isinstance(engine, TeacherEngine):
        return hash_json(dict(engine.teacher.identity))
    return hash_weights(source)
