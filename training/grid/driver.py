"""Run a grid of settings: shared stages once, finished runs skipped, every headline number in one table.

    python -m training.sweep results/mine/grid.toml --dry-run
    python -m training.sweep results/mine/grid.toml --jobs 2
    python -m training.sweep results/mine/grid.toml --backend ray --address auto --work /shared/mine

Reads a grid file (its format: python -m pydoc training.grid.file; examples: results/*/grid.toml), makes run directories in
--work and appends each finished run's rows to tables/sweep.csv beside the grid file, or, of a file that is not named
grid.toml, in a folder of its name. Killed or stopped, the same command goes on; a run that fails is reported and
leaves the others alone. Next: `python -m analysis.ablations RESULTS_DIR`.
"""

import time
from collections import Counter
from pathlib import Path

from training.base.console import minutes
from training.base.errors import UserError
from training.base.files import read_json, sha256_file, write_json
from training.base.provenance import commit, versions
from training.grid.rows import add_run
from training.grid.workers import Lost, Processes, Ray, ThisProcess
from training.runs.checkpoints import drop_weights, lacks_weights

# A worker that dies takes its job with it; the job is sent again so often.
RESUBMISSIONS = 3


class RunsFailed(UserError):
    """Some runs of a sweep could not be finished."""


def results_of(grid: Path) -> Path:
    """Where the results of a grid file go by default: beside a grid.toml, else in a folder named after the file, so that
    two grid files in one folder do not share a table."""
    return (
        grid.parent
        if grid.name == "grid.toml"
        else grid.parent / (grid.stem if grid.suffix else f"{grid.name}-results")
    )


def made_by_other_code(table) -> int:
    """How many runs in a sweep's table another commit than this one made."""

    if "commit" not in table:
        return 0
    now = commit().removesuffix("+")
    return int(table.loc[table["commit"].astype(str).str.removesuffix("+") != now, "run"].nunique())


def _pool(options, work: Path):

    if options.backend == "ray":
        return Ray(options.jobs, options.address, options.gpus_a_run, work)
    if options.jobs == 1:
        return ThisProcess()
    import torch

    return Processes(options.jobs, torch.cuda.device_count() if torch.cuda.is_available() else 0)


def baseline_of(results: Path, grid) -> dict:
    """Stage -> option -> the default it had when this sweep was begun, or has now if it is new since."""

    path = Path(results) / "run.json"
    before = read_json(path).get("baseline", {}) if path.exists() else {}
    return {
        stage.name: {**stage.defaults, **before.get(stage.name, {})} for stage in grid.stages
    } | {
        name: options
        for name, options in before.items()
        if name not in {s.name for s in grid.stages}
    }


def _record(results: Path, grid, plan) -> None:
    """Write run.json of the results: what was run, with which defaults and versions.

    With nothing left to run, what the grid file says now, and the versions and commit that were.
    """

    path = Path(results) / "run.json"
    made_by = {"versions": versions(), "commit": commit()}
    if not plan.tasks and path.exists():
        made_by |= {name: value for name, value in read_json(path).items() if name in made_by}
    write_json(
        path,
        {
            "format": 1,
            "kind": "sweep",
            "title": grid.title,
            "grid_sha256": sha256_file(grid.path),
            "axes": list(grid.axes),
            "repeats": list(grid.repeats),
            "compare": dict(grid.compare),
            "runs": len(set(plan.ids)),
            "baseline": baseline_of(results, grid),
            **made_by,
        },
    )


def mean_seconds(table) -> dict[str, float]:
    """Stage -> mean seconds that the finished runs of a sweep's table took."""
    if "measure" not in table:
        return {}
    rows = table[table["measure"] == "seconds"]
    stage = rows["phase"].where(rows["table"] == "training", rows["table"])
    return rows.groupby(stage)["value"].mean().to_dict()


class Driver:
    """Sends tasks to a pool as their parents are done, and writes the table: it alone does."""

    def __init__(self, plan, pool, results: Path, table, estimates: dict[str, float]) -> None:
        self.plan, self.pool, self.results, self.table = plan, pool, results, table
        self.estimates = estimates
        self.state = dict.fromkeys(plan.tasks, "waiting")
        self.outcomes: dict = {}
        self.lost: Counter[str] = Counter()
        self.reset: set[str] = set()
        self.failures: dict[str, str] = {}
        self.total = len({r for task in plan.tasks.values() for r in task.runs})
        self.done: set[str] = set()
        self.began = time.monotonic()

    def run(self) -> None:
        """Until every task is done or has failed."""
        running = 0
        while True:
            for name in self._ready()[: self.pool.capacity - running]:
                self.state[name] = "sent"
                self.pool.submit(self.plan.job(self.plan.tasks[name], reset=name in self.reset))
                running += 1
            if not running:
                return
            for job, result in self.pool.results():
                running -= 1
                self._take(job.name, result)

    def _ready(self) -> list[str]:
        """Tasks that can start, the deepest first, so that what they rest on can be deleted early."""
        found = [
            name
            for name, task in self.plan.tasks.items()
            if self.state[name] == "waiting"
            and (task.parent is None or self.state[task.parent] == "done")
            # Nothing may read a directory while it is trained anew.
            and not (
                name in self.reset
                and any(self.state[c.name] == "sent" for c in self.plan.children(name))
            )
        ]
        return sorted(found, key=lambda name: -len(self._chain(name)))

    def _chain(self, name: str) -> list[str]:
        parent = self.plan.tasks[name].parent
        return [*(self._chain(parent) if parent else []), name]

    def _take(self, name: str, result) -> None:

        if isinstance(result, Lost):
            self.lost[name] += 1
            if self.lost[name] > RESUBMISSIONS:
                return self._fail(
                    name, f"its worker died {self.lost[name]} times ({result.reason})"
                )
            print(f"{name}: its worker died ({result.reason}); sent again", flush=True)
            self.state[name] = "waiting"
        elif result.lacks_weights:
            self._train_again(name)
        elif "" in result.failures:
            self._fail(name, result.failures[""])
        else:
            self.state[name], self.outcomes[name] = "done", result
            for run_id in self.plan.tasks[name].runs:
                self._finish(run_id, result)
            self._drop(name)
        return None

    def _train_again(self, name: str) -> None:
        """Weights that were deleted are needed: this task and those it rests on without weights are trained anew."""

        if name in self.reset:
            return self._fail(name, "weights that it needs are gone and could not be made again")
        for there in self._chain(name):
            if there not in self.reset and (there == name or lacks_weights(self.plan.work / there)):
                self.reset.add(there)
                self.state[there] = "waiting"
        return None

    def _fail(self, name: str, reason: str) -> None:
        """A task failed: so do the runs that rest on it."""
        self.state[name] = "failed"
        for run_id in self.plan.tasks[name].rests:
            if run_id not in self.failures and run_id not in self.done:
                self.failures[run_id] = (
                    f"{reason}    log: {self.plan.work / 'logs' / f'{name}.log'}"
                )
                print(f"failed: {self.plan.run(run_id).label}: {reason}", flush=True)

    def _finish(self, run_id: str, outcome) -> None:
        """Write the rows of a run, unless one of its measurements failed."""

        failed = [
            outcome.failures[key] for key in self.plan.wanted[run_id] if key in outcome.failures
        ]
        run = self.plan.run(run_id)
        if failed:
            self.failures[run_id] = (
                f"{failed[0]}    log: {self.plan.work / 'logs' / f'{outcome.name}.log'}"
            )
            print(f"failed: {run.label}: {failed[0]}", flush=True)
            return
        rows = [row for name in self.plan.chains[run_id] for row in self.outcomes[name].rows[""]]
        for key in self.plan.wanted[run_id]:
            rows += outcome.rows[key]
            stage = self.plan.tasks[outcome.name].measurements[key].call.stage.name
            rows.append({"table": stage, "measure": "seconds", "value": outcome.seconds[stage]})
        labels = {
            "condition": run.condition,
            **run.varied,
            "seed": outcome.seed,
            "directory": outcome.name,
        }
        labels = {k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in labels.items()}
        self.table = add_run(self.results, self.table, run_id, rows, labels, device=outcome.device)
        self.done.add(run_id)
        print(f"{self.progress()}: {run.label}{_headline(rows)}    {self.remaining()}", flush=True)

    def _drop(self, name: str) -> None:
        """Delete weights that no unfinished run rests on, if the grid says so."""

        if self.plan.grid.keep == "checkpoints":
            return
        for there in self._chain(name):
            if set(self.plan.tasks[there].rests) <= self.done:
                drop_weights(self.plan.work / there)

    def progress(self) -> str:
        """`[ 3 of 24]`."""
        return f"[{len(self.done):>{len(str(self.total))}} of {self.total}]"

    def remaining(self) -> str:
        """The time left, from the time taken and the estimates."""
        settled = [name for name, state in self.state.items() if state in ("done", "failed")]
        past, future = (
            sum(self.estimates[n] for n in self.state if (n in settled) == side)
            for side in (True, False)
        )
        if not past or not future:
            return f"{minutes(time.monotonic() - self.began)} so far"
        return f"about {minutes((time.monotonic() - self.began) * future / past)} left"

    def failure_lines(self, grid: Path) -> list[str]:
        """What failed and what to do."""
        lines = [f"{len(self.failures)} of {self.total} runs failed, the others are finished:"]
        lines += [
            f"  {self.plan.run(run_id).label}: {reason}" for run_id, reason in self.failures.items()
        ]
        return [
            *lines,
            f"  Mend the cause and start again (finished runs are skipped): python -m training.sweep {grid}",
        ]


def _headline(rows: list[dict]) -> str:
    """Recall of held-out subjects at test prompts at the run's last checkpoint, if it was measured."""
    wanted = {
        "table": "recall",
        "measure": "generation",
        "relation": "bound",
        "family": "test",
        "subset": "all",
    }
    found = [
        r
        for r in rows
        if all(r.get(k) == v for k, v in wanted.items()) and r.get("split") != "seen"
    ]
    return (
        f"   test prompts {max(found, key=lambda r: r['checkpoint'])['value']:.2f}" if found else ""
    )
