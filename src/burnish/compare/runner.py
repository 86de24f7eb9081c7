"""The models of one comparison, loaded when they are needed and one at a time."""

import shutil
from collections.abc import Mapping
from dataclasses import replace

from burnish.compare.forgetting import Forgetting, general_set, what_was_lost
from burnish.compare.routes import ROUTES, Setting
from burnish.compare.teacher_ceiling import CEILING, Endpoint
from burnish.compare.verdict import TRAINED, surely_worse
from burnish.core.atomic import hash_json, whole_folder
from burnish.core.progress import say
from burnish.core.recipe.data import Task
from burnish.core.recipe.evaluate import Evaluate
from burnish.core.records import Scores
from burnish.core.runs import Run
from burnish.data.split import sample
from burnish.engines.answerers.registry import open_teacher
from burnish.engines.protocol import Engine
from burnish.engines.registry import open_any
from burnish.evaluate.prediction_cache import Measured, measured, timed
from burnish.evaluate.scoring import Asked
from burnish.models.find_artifact import weights_hash

#: Questions after which a route may be given up. A quarter of the rows at most, since who isn't
#: given up is asked them again.
_LOOK = 256


class Models:
    """Trains, opens, asks and times them; each training once."""

    def __init__(self, setting: Setting, run: Run) -> None:
        self.setting, self.run = setting, run
        self.trainings: dict[str, Run] = {}
        self.loaded: tuple[str, Engine] | None = None

    @property
    def may_give_up(self) -> bool:
        """Whether there are questions enough to judge a route by some of them."""
        rows, settings = self.setting.rows, self.setting.recipe.compare
        return settings.stop_hopeless and len(rows) >= 4 * _LOOK

    def measure(self, name: str, beside: Mapping[str, Scores]) -> Measured:
        """One route on the test rows; on some of them, if it does surely worse on these than one of
        the routes measured before."""
        source = self._source(name)
        engine = self._engine(source)
        identity = _identity(engine, source)
        prompts = ROUTES[name].prompts(self.setting, engine)
        asked = Asked(self.setting.rows, prompts, f"Asking {name}")
        ceiling_or_trained = name == CEILING or name in TRAINED
        scores = None if ceiling_or_trained else self._hopeless(identity, engine, asked, beside)
        scores = scores or self._scores(identity, engine, asked)
        if isinstance(engine, Endpoint):
            # What came back from elsewhere was timed on the way; asking again costs money.
            seconds = [prediction.seconds for prediction in scores.predictions]
        else:
            seconds = timed(identity, engine, prompts)
        self.run.events.write(event="measured", route=name, value=scores.interval.value)
        return Measured(scores, seconds, engine.memory_bytes)

    def _hopeless(
        self, identity: str, engine: Engine, asked: Asked, beside: Mapping[str, Scores]
    ) -> Scores | None:
        """Scores on a drawn part of the questions, if they are enough to give the route up."""
        recipe = self.setting.recipe
        if not self.may_give_up or not beside:
            return None
        drawn = {row.id for row in sample(asked.rows, _LOOK, recipe.evaluate.seed)}
        both = zip(asked.rows, asked.prompts, strict=True)
        rows, prompts = zip(*((row, one) for row, one in both if row.id in drawn), strict=True)
        part = Asked(rows, prompts, f"{asked.label}, {len(rows)} drawn questions")
        scores = self._scores(identity, engine, part)
        if (better := surely_worse(scores, beside)) is None:
            return None
        say(
            f"{asked.label}: given up after {len(rows)} of {len(asked.rows)} questions, surely "
            f"worse than {better} (compare.stop_hopeless=false asks them all)."
        )
        return scores

    def again(self, name: str) -> dict[int, Scores]:
        """A route that trains, trained with the seeds after the recipe's, as many as it says."""
        recipe = self.setting.recipe
        seeds = range(recipe.train.seed + 1, recipe.train.seed + recipe.compare.seeds)
        return {seed: self._with_seed(name, seed) for seed in seeds}

    def _with_seed(self, name: str, seed: int) -> Scores:
        setting, route = self.setting, ROUTES[name]
        train = setting.recipe.train.model_copy(update={"seed": seed})
        setting = replace(setting, recipe=setting.recipe.model_copy(update={"train": train}))
        say(f"Training for {name} with seed {seed}")
        self.loaded = None
        assert route.learns is not None
        dataset = replace(setting.dataset, split=route.learns(setting))
        source = str(route.makes(setting.recipe, dataset).artifact)
        engine = self._engine(source)
        asked = Asked(setting.rows, route.prompts(setting, engine), f"Asking {name}, seed {seed}")
        return self._scores(weights_hash(source), engine, asked)

    def _scores(self, identity: str, engine: Engine, asked: Asked) -> Scores:
        """The scores that decide: those of words, or the judge's grades of the same answers."""
        judge, settings = self.setting.judge, self.setting.recipe.evaluate
        scores = measured(identity, engine, asked, self.setting.dataset.task, settings)
        return judge.graded(scores, asked.rows, settings) if judge else scores

    def keep(self, judged: str) -> None:
        """Put what the judged route trained into the comparison's own folder."""
        if not self.run.artifact.exists():
            with whole_folder(self.run.artifact) as draft:
                shutil.copytree(self.trainings[judged].artifact, draft, dirs_exist_ok=True)

    def forgetting(self, judged: str) -> Forgetting:
        """The general set, before and after."""
        return what_was_lost(self._general("base"), self._general(judged))

    def _general(self, name: str) -> Scores:
        source = self._source(name)
        asked = replace(general_set(), label=f"General questions, {name}")
        task = Task(kind="classification")
        settings = Evaluate(confidence=self.setting.recipe.evaluate.confidence)
        return measured(weights_hash(source), self._engine(source), asked, task, settings)

    def _source(self, name: str) -> str:
        """The name of the base or the teacher, or the folder of what was trained for this route."""
        if name == CEILING:
            teacher = self.setting.recipe.distil.teacher
            # Over there a model may have the name of one that is here.
            return f"{teacher.endpoint} {teacher.model}" if teacher.endpoint else teacher.model
        learns = ROUTES[name].learns
        if learns is None:
            return self.setting.recipe.model.name
        if name not in self.trainings:
            self.loaded = None
            say(f"Training for {name}")
            dataset = replace(self.setting.dataset, split=learns(self.setting))
            self.trainings[name] = ROUTES[name].makes(self.setting.recipe, dataset)
        return str(self.trainings[name].artifact)

    def _engine(self, source: str) -> Engine:
        if self.loaded is None or self.loaded[0] != source:
            self.loaded = None
            teacher = self.setting.recipe.distil.teacher
            elsewhere = teacher.endpoint and source.startswith(f"{teacher.endpoint} ")
            opened = Endpoint(open_teacher(self.setting.recipe)) if elsewhere else open_any(source)
            self.loaded = (source, opened)
        return self.loaded[1]


def _identity(engine: Engine, source: str) -> str:
    """A hash of all that the answers depend on besides the question."""
    if isinstance(engine, Endpoint):
        return hash_json(dict(engine.teacher.identity))
    return weights_hash(source)
