"""A sweep: what is left of a grid is planned, its tasks go to workers, finished runs get rows.

    table = run_sweep(Path("results/mine/grid.toml"), jobs=2)

The driver alone writes the table. Killed or stopped, the same call continues: finished runs are in
the table, finished stages in their directories. A failing run leaves the others alone.
"""

import shutil
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from training.base.console import Interrupted, megabytes, minutes
from training.base.errors import BadInput, DiskFull, UserError
from training.base.files import commit, locked, read_json, sha256_file, versions, write_json
from training.grid.cost import check_grid, cost_of, dry_run_lines
from training.grid.file import Grid, read_grid
from training.grid.plan import Plan, make_plan
from training.grid.rows import add_run, made_by_other_code, mean_seconds, read_sweep, sweep_path
from training.grid.tasks import Outcome
from training.grid.workers import Lost, make_pool
from training.runs.checkpoints import drop_weights, lacks_weights

# If a worker dies, resubmit its task up to this many times.
RESUBMISSIONS = 3


def run_sweep(
    grid: Path,
    *,
    out: Path | None = None,
    work: Path | None = None,
    repetitions: int = 0,
    dry_run: bool = False,
    jobs: int = 1,
    backend: str = "joblib",
    address: str = "",
    gpus_a_run: float = 0.0,
):
    """Run what is not finished of a grid file; the sweep's table. Arguments: see `training.sweep`.

    Raises BadInput for a grid that cannot run, DiskFull, Busy, Interrupted on Ctrl-C, and UserError
    if runs failed, once all others are finished.
    """
    if jobs < 1:
        raise BadInput(f"--jobs is {jobs}; give how many runs go at a time, 1 or more.")
    grid = read_grid(grid, repetitions=repetitions)
    results = out or results_of(grid.path)
    work = (work or Path("runs") / results.resolve().name).expanduser().resolve()
    checked = check_grid(grid, fetch=not dry_run)
    table = read_sweep(results)
    plan = make_plan(grid, work, baseline_of(results, grid), set(table["run"]))
    cost = cost_of(plan, checked, jobs, mean_seconds(table))
    free = shutil.disk_usage(next(p for p in (work, *work.parents) if p.exists())).free
    for line in dry_run_lines(plan, cost, jobs, free):
        if dry_run or not line.startswith("  "):
            print(line)
    if dry_run:
        print(f"nothing was started    next: python -m training.sweep {grid.path}")
        return table
    if others := made_by_other_code(table):
        print(
            f"{others} of the finished runs were made by another commit and are kept; to repeat "
            "all give --out NEW and --work NEW"
        )
    if cost.peak > free:
        raise DiskFull(
            f"{megabytes(cost.peak)} are needed in {work}, {megabytes(free)} are free. Give --work "
            "on "
            f'another disk, or keep = "tables" in {grid.path}.'
        )
    if plan.tasks:
        with locked(work):
            record(results, plan)
            pool = make_pool(work, jobs, backend, address, gpus_a_run)
            table = Driver(plan, pool, results, table, cost.tasks).run()
    elif len(table):
        record(results, plan)
    wrote = f"wrote {sweep_path(results)} ({len(table)} rows)"
    print(f"{wrote}    next: python -m analysis.ablations {results}")
    return table


def results_of(grid: Path) -> Path:
    """Where a grid file's results go by default: beside a grid.toml, else in a folder of the file's
    name, so that two grid files in one folder do not share a table."""
    if grid.name == "grid.toml":
        return grid.parent
    return grid.parent / (grid.stem if grid.suffix else f"{grid.name}-results")


def baseline_of(results: Path, grid: Grid) -> dict[str, dict]:
    """Stage -> option -> the default it had when this sweep began, or has now if it is newer."""
    path = Path(results) / "run.json"
    before = read_json(path).get("baseline", {}) if path.exists() else {}
    now = {stage.name: {**stage.defaults, **before.get(stage.name, {})} for stage in grid.stages}
    return now | {name: options for name, options in before.items() if name not in now}


def record(results: Path, plan: Plan) -> None:
    """Write run.json of the results: what was run, with which defaults, versions and commit.

    With nothing left to run: what the grid file says now, and the versions and commit recorded
    before.
    """
    path, grid = Path(results) / "run.json", plan.grid
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
            "runs": len(plan.runs),
            "baseline": baseline_of(results, grid),
            **made_by,
        },
    )


class Driver:
    """Sends tasks to a pool once their parents are done, and adds the rows of finished runs."""

    def __init__(self, plan: Plan, pool, results: Path, table, estimates: Mapping) -> None:
        self.plan, self.pool, self.results, self.table = plan, pool, results, table
        self.estimates = estimates
        """Task -> seconds."""
        self.state = dict.fromkeys(plan.tasks, "waiting")
        """Task -> waiting, sent, done, failed."""
        self.outcomes: dict[str, Outcome] = {}
        self.lost: Counter[str] = Counter()
        self.failures: dict[str, str] = {}
        """Run id -> reason."""
        self.done: set[str] = set()
        self.began = time.monotonic()

    def run(self):
        """Until every task is done or failed; the sweep's table. Raises UserError, Interrupted."""
        try:
            while self._send():
                for task, result in self.pool.results():
                    self._take(task.name, result)
        except (KeyboardInterrupt, Interrupted) as stop:
            again = "the same command continues from there."
            raise Interrupted(f"{self.progress()}; {again}") from stop
        finally:
            self.pool.close()
        if self.failures:
            raise UserError("\n".join(self.failure_lines()))
        return self.table

    def _send(self) -> bool:
        """Fill the pool; whether any task runs."""
        running = Counter(self.state.values())["sent"]
        for name in self._ready()[: self.pool.capacity - running]:
            self.state[name] = "sent"
            self.pool.submit(self.plan.tasks[name])
            running += 1
        return running > 0

    def _ready(self) -> list[str]:
        """Tasks that can start, deepest first, so that what they rest on can be deleted early."""
        found = [name for name in self.plan.tasks if self._can_start(name)]
        return sorted(found, key=lambda name: -len(self.plan.chain(name)))

    def _can_start(self, name: str) -> bool:
        tasks, state = self.plan.tasks, self.state
        parent = tasks[name].parent
        if state[name] != "waiting" or (parent and state[parent] != "done"):
            return False
        # Nothing may read a directory while it is trained from scratch.
        read = [there for there, task in tasks.items() if task.parent == name]
        return not (tasks[name].reset and any(state[there] == "sent" for there in read))

    def _take(self, name: str, result: Outcome | Lost) -> None:
        """Act on the result of a task."""
        if isinstance(result, Lost):
            self.lost[name] += 1
            died = f"its worker died {self.lost[name]} times ({result.reason})"
            if self.lost[name] > RESUBMISSIONS:
                self._fail(name, died)
            else:
                print(f"{name}: its worker died ({result.reason}); resubmitted", flush=True)
                self.state[name] = "waiting"
        elif result.lacks_weights:
            self._train_again(name)
        elif "" in result.failures:
            self._fail(name, result.failures[""])
        else:
            self.state[name], self.outcomes[name] = "done", result
            for run_id in self.plan.tasks[name].rests:
                if self.plan.runs[run_id].chain[-1] == name:
                    self._finish(run_id, result)
            self._drop_weights(name)

    def _train_again(self, name: str) -> None:
        """Deleted weights are needed: train this task again, and those below it without weights."""
        if self.plan.tasks[name].reset:
            self._fail(name, "weights that it needs are gone and could not be made again")
            return
        for there in self.plan.chain(name):
            task = self.plan.tasks[there]
            if not task.reset and (there == name or lacks_weights(task.folder)):
                task.reset, self.state[there] = True, "waiting"

    def _fail(self, name: str, reason: str) -> None:
        """A task failed: so do the runs that rest on it."""
        self.state[name] = "failed"
        for run_id in self.plan.tasks[name].rests:
            if run_id not in self.failures and run_id not in self.done:
                self._fail_run(run_id, name, reason)

    def _fail_run(self, run_id: str, name: str, reason: str) -> None:
        self.failures[run_id] = f"{reason}    log: {self.plan.tasks[name].log}"
        print(f"failed: {self.plan.runs[run_id].run.label}: {reason}", flush=True)

    def _finish(self, run_id: str, outcome: Outcome) -> None:
        """Write the rows of a run, unless one of its measurements failed."""
        planned = self.plan.runs[run_id]
        for key in planned.measured:
            if key in outcome.failures:
                self._fail_run(run_id, outcome.name, outcome.failures[key])
                return
        rows = [row for name in planned.chain for row in self.outcomes[name].rows[""]]
        for key in planned.measured:
            stage = self.plan.tasks[outcome.name].measurements[key].stage.name
            seconds = {"table": stage, "measure": "seconds", "value": outcome.seconds[stage]}
            rows += [*outcome.rows[key], seconds]
        run = planned.run
        labels = {"condition": run.condition, **run.varied}
        labels |= {"seed": outcome.seed, "directory": outcome.name}
        labels = {k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in labels.items()}
        self.table = add_run(self.results, self.table, run_id, rows, labels, device=outcome.device)
        self.done.add(run_id)
        print(f"{self.progress()}: {run.label}{_headline(rows)}    {self.remaining()}", flush=True)

    def _drop_weights(self, name: str) -> None:
        """Delete weights that no unfinished run rests on, if the grid says so."""
        if self.plan.grid.keep == "tables":
            for task in map(self.plan.tasks.get, self.plan.chain(name)):
                if set(task.rests) <= self.done:
                    drop_weights(task.folder)

    def progress(self) -> str:
        """`[ 3 of 24]`."""
        total = len(self.plan.left)
        return f"[{len(self.done):>{len(str(total))}} of {total}]"

    def remaining(self) -> str:
        """The time left, from the time taken and the estimates."""
        ended = {name for name, state in self.state.items() if state in ("done", "failed")}
        past = sum(seconds for name, seconds in self.estimates.items() if name in ended)
        future = sum(self.estimates.values()) - past
        taken = time.monotonic() - self.began
        if len(ended) == len(self.state) or not past:
            return f"{minutes(taken)} so far"
        return f"about {minutes(taken * future / past)} left"

    def failure_lines(self) -> list[str]:
        """What failed and what to do."""
        failed = f"{len(self.failures)} of {len(self.plan.left)} runs failed"
        reasons = [f"  {self.plan.runs[id].run.label}: {why}" for id, why in self.failures.items()]
        again = f"python -m training.sweep {self.plan.grid.path}"
        return [
            f"{failed}, the others are finished:",
            *reasons,
            f"  Fix the cause and start again (finished runs are skipped): {again}",
        ]


def _headline(rows: list[dict]) -> str:
    """Recall at test prompts, held-out subjects, the last checkpoint; "" if not measured."""
    wanted = {
        "table": "recall",
        "measure": "generation",
        "relation": "bound",
        "family": "test",
        "subset": "all",
    }
    found = [row for row in rows if wanted.items() <= row.items() and row.get("split") != "seen"]
    if not found:
        return ""
    return f"   test prompts {max(found, key=lambda row: row['checkpoint'])['value']:.2f}"
