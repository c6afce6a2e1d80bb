"""Random and Bayesian search through Optuna: it proposes a configuration, a job runs it, and Optuna gets the result.

The study is a file in the sweep's folder, or any database that several machines reach; who starts the same command
there joins in. Needs the extra `optuna`.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from anchorlab.console import console
from anchorlab.errors import SettingError
from anchorlab.signatures import Count, CountOrZero, checked
from anchorlab.sweeps.folder import identity
from anchorlab.sweeps.jobs import Job
from anchorlab.sweeps.space import Axis, Point
from anchorlab.sweeps.strategy import Strategy, Sweep

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution


LARGEST_TABLE = 200
REPEATS = 20
"""Proposals in a row that were tried before, after which an untried one is drawn."""


@checked
@dataclass
class Search(Strategy):
    """Trains `trials` configurations that Optuna proposes, each proposal in the light of those before.

    What was tried before is not trained again, here or on another machine of the study: its metric is told again.

    Args:
        sampler: tpe (Bergstra et al. 2011: first `startup` at random, then where metrics were good) or random.
        trials: configurations that are trained, those of other machines in the same study included.
        startup: of them at random, before tpe draws conclusions.
        seed: of the proposals.
        storage: null: optuna.db in the sweep's folder; or the URL of a database, such as postgresql://host/name.
        study: its name in the storage; null: one that the same command has on every machine.
    """

    sampler: Literal["tpe", "random"] = "tpe"
    trials: Count = 20
    startup: Count = 8
    seed: CountOrZero = 0
    storage: str | None = None
    study: str | None = None

    def run(self, sweep: Sweep) -> None:
        space = sweep.space
        if not space.axes:
            raise SettingError("there is nothing to search: give at least one setting several values, anchor.k=3,6,9")
        if space.is_finite and space.size <= LARGEST_TABLE:
            sweep.preview(list(space.points()), f"up to {self.trials} of these are trained ({self.sampler})")
        else:
            lines = [*map(str, space.axes), f"{self.trials} configurations are trained ({self.sampler})"]
            console().print("\n".join(lines), markup=False, soft_wrap=True)
        if self.dry_run:
            return
        study = self._open(sweep)
        sweep.plan_listed()
        self._finish_broken(study, sweep)
        while (left := self.trials - trained(study)) > 0:
            batch = self._ask(study, sweep, min(left, self.at_once or min(sweep.workers, max(1, self.trials // 4))))
            if not batch:
                console().print("every configuration of the space has been tried")
                break
            self._train(study, sweep, batch)

    def summary(self, sweep: Sweep) -> list[str]:
        study = self._open(sweep)
        where = self.storage or sweep.folder.path / "optuna.db"
        return [f"study {study.study_name}: {trained(study)} of {self.trials} configurations trained; {_hidden(where)}"]

    def _open(self, sweep: Sweep) -> "optuna.Study":
        """Open the study; its proposals continue those of an earlier process."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sweep.folder.path.mkdir(parents=True, exist_ok=True)
        url = self.storage or f"sqlite:///{sweep.folder.path.absolute() / 'optuna.db'}"
        name = self.study or f"anchorlab-{identity(sweep.folder.content['overrides'])}"
        try:
            study = optuna.create_study(storage=url, study_name=name, direction="maximize", load_if_exists=True)
        except Exception as error:  # of SQLAlchemy, or of the database's own package
            reason = str(error).strip().splitlines()[0]
            raise SettingError(f"sweep.storage={_hidden(url)} cannot be used ({reason})") from error
        # The same seed after every start would propose the same again.
        study.sampler = self._sampler(self.seed + len(study.trials))
        return study

    def _sampler(self, seed: int) -> "optuna.samplers.BaseSampler":
        from optuna.samplers import RandomSampler, TPESampler

        if self.sampler == "random":
            return RandomSampler(seed=seed)
        # constant_liar: proposals that are still training count as bad ones, so that a batch does not crowd together.
        return TPESampler(n_startup_trials=self.startup, constant_liar=True, seed=seed)

    def _ask(self, study: "optuna.Study", sweep: Sweep, count: int) -> list[tuple["optuna.Trial", Job]]:
        """Up to `count` trials that have to be trained, with their jobs; none where nothing is left to try."""
        batch: list[tuple[optuna.Trial, Job]] = []
        space = sweep.space
        distributions = {axis.key: _distribution(axis) for axis in space.axes}
        repeats = 0
        while len(batch) < count:
            if repeats and repeats % REPEATS == 0 and not self._enqueue_untried(study, sweep):
                break
            known = _by_point(study, space.axes)
            trial = study.ask(distributions)
            point = _point(trial.params, space.axes)
            if point in known:
                repeats += 1
                _repeat(study, trial, known[point])
                continue
            job = sweep.plan([point])[0]
            trial.set_user_attr("folder", str(sweep.folder.path.absolute()))
            if not job.runs:
                repeats += 1
                self._leave_out(study, sweep, trial, job)
                continue
            trial.set_user_attr("trained", True)
            batch.append((trial, job))
        return batch

    def _train(self, study: "optuna.Study", sweep: Sweep, batch: Sequence[tuple[Any, Job]]) -> None:
        from optuna.trial import TrialState

        sweep.launch([job for _, job in batch])
        for trial, job in batch:
            metric = sweep.metric(job)
            if metric is None:
                study.tell(trial.number, state=TrialState.FAIL)
            else:
                study.tell(trial.number, metric)

    def _leave_out(self, study: "optuna.Study", sweep: Sweep, trial: "optuna.Trial", job: Job) -> None:
        """Tell Optuna the metric of a job that does not run: its twin's; without one, the trial is pruned."""
        from optuna.trial import TrialState

        console().print(f"left out: {' '.join(job.point)}: {job.left_out or job.impossible}", markup=False)
        metric = None if job.twin is None else sweep.metric(job.twin)
        if metric is None:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, metric)

    def _finish_broken(self, study: "optuna.Study", sweep: Sweep) -> None:
        """Finish the trials that a killed process of this sweep left."""
        from optuna.trial import TrialState

        here = str(sweep.folder.path.absolute())
        left = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        mine = [trial for trial in left if trial.user_attrs.get("folder") == here]
        self._train(study, sweep, [(trial, sweep.plan([_point(trial.params, sweep.space.axes)])[0]) for trial in mine])

    def _enqueue_untried(self, study: "optuna.Study", sweep: Sweep) -> bool:
        """Have an untried point proposed next; whether there is one."""
        space = sweep.space
        if not space.is_finite:
            return True
        known = _by_point(study, space.axes)
        untried = [point for point in space.points() if point not in known]
        if untried:
            point = random.Random(len(known)).choice(untried)
            study.enqueue_trial({axis.key: o.partition("=")[2] for axis, o in zip(space.axes, point, strict=True)})
        return bool(untried)


def trained(study: "optuna.Study") -> int:
    """How many configurations of the study were trained to their end, or failed while they were."""
    return sum(bool(trial.user_attrs.get("trained")) and trial.state.is_finished() for trial in study.get_trials(False))


def _repeat(study: "optuna.Study", trial: "optuna.Trial", before: "optuna.trial.FrozenTrial") -> None:
    """Tell Optuna again the known metric of a point; nothing while it is still being trained."""
    from optuna.trial import TrialState

    if before.state == TrialState.COMPLETE:
        study.tell(trial, before.value)
    else:
        study.tell(trial, state=TrialState.FAIL)


def _by_point(study: "optuna.Study", axes: Sequence[Axis]) -> dict[Point, "optuna.trial.FrozenTrial"]:
    """The first trial of each point."""
    trials: dict[Point, optuna.trial.FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False):
        if trial.params.keys() == {axis.key for axis in axes}:
            trials.setdefault(_point(trial.params, axes), trial)
    return trials


def _point(params: dict[str, Any], axes: Sequence[Axis]) -> Point:
    return tuple(axis.override(params[axis.key]) for axis in axes)


def _distribution(axis: Axis) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if axis.values:
        return CategoricalDistribution(axis.values)
    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


def _hidden(url: Any) -> str:
    """The storage without its password."""
    head, at, tail = str(url).rpartition("@")
    return f"{head.partition('://')[0]}://...@{tail}" if at else str(url)
