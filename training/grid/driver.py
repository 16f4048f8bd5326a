"""A sweep: what is left of a grid is planned, its tasks go to workers, finished runs get rows.

The driver alone writes the table. Killed or stopped, the same call continues: finished runs are in
the table, finished stages in their directories. A failing run leaves the others alone.
"""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from training.base.console import Interrupted, megabytes, minutes
from training.base.errors import BadInput, DiskFull, UserError
from training.base.files import locked, read_json, sha256_file, write_json
from training.base.provenance import commit, versions
from training.grid.cost import check_grid, cost_of, dry_run_lines
from training.grid.file import Grid, read_grid
from training.grid.plan import Plan, Task, make_plan
from training.grid.rows import add_run, made_by_other_code, mean_seconds, read_sweep, sweep_path
from training.grid.tasks import Outcome
from training.grid.workers import make_pool
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
    **pool: object,
):
    """Run what is not finished of a grid file; the sweep's table. Arguments: see `training.sweep`.

    pool: see `make_pool`. Raises BadInput for a grid that cannot run, DiskFull, Busy, Interrupted
    on Ctrl-C, and UserError if runs failed, once all others are finished.
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
        print(f"{others} finished runs of another commit are kept; to repeat: --out NEW --work NEW")
    if cost.peak > free:
        needed = f"{megabytes(cost.peak)} are needed in {work}, {megabytes(free)} are free"
        raise DiskFull(f'{needed}. Give --work on another disk, or keep = "tables" in the grid.')
    if plan.tasks:
        with locked(work):
            record(results, plan)
            workers = make_pool(work, jobs, **pool)
            table = Driver(plan, workers, results, table, cost.tasks).run()
    elif len(table):
        record(results, plan)
    wrote = f"wrote {sweep_path(results)} ({len(table)} rows)"
    print(f"{wrote}    next: python -m analysis.ablations {results}")
    return table


def results_of(grid: Path) -> Path:
    """Where results go by default: beside a grid.toml, else in a folder named after the file."""
    name = grid.stem if grid.suffix else f"{grid.name}-results"
    return grid.parent if grid.name == "grid.toml" else grid.parent / name


def baseline_of(results: Path, grid: Grid) -> dict[str, dict]:
    """Stage -> option -> the default it had when this sweep began, or has now if it is newer."""
    path = Path(results) / "run.json"
    before = read_json(path).get("baseline", {}) if path.exists() else {}
    now = {stage.name: stage.defaults | before.get(stage.name, {}) for stage in grid.stages}
    return before | now


def record(results: Path, plan: Plan) -> None:
    """Write run.json of the results: what was run, with which defaults, versions and commit."""
    path, grid = Path(results) / "run.json", plan.grid
    made_by = {"versions": versions(), "commit": commit()}
    if not plan.tasks and path.exists():
        # Nothing is left to run: the record says what the finished runs were made by.
        made_by |= {name: value for name, value in read_json(path).items() if name in made_by}
    described = {"format": 1, "kind": "sweep", "title": grid.title}
    described |= {"grid_sha256": sha256_file(grid.path), "axes": list(grid.axes)}
    described |= {"repeats": list(grid.repeats), "compare": dict(grid.compare)}
    described |= {"runs": len(plan.runs), "baseline": baseline_of(results, grid)}
    write_json(path, described | made_by)


class Driver:
    """Sends tasks to a pool once their parents are done, and adds the rows of finished runs.

    estimates: task name -> seconds. failures: run id -> reason.
    """

    def __init__(self, plan: Plan, pool, results: Path, table, estimates: Mapping) -> None:
        self.plan, self.pool, self.results, self.table = plan, pool, results, table
        self.estimates, self.began = estimates, time.monotonic()
        self.outcomes: dict[str, Outcome] = {}
        self.failures: dict[str, str] = {}
        self.done: set[str] = set()

    def run(self):
        """Until every task is done or failed; the sweep's table. Raises UserError, Interrupted."""
        try:
            while self._send():
                for task, result in self.pool.results():
                    self._take(task, result)
        except (KeyboardInterrupt, Interrupted) as stop:
            raise Interrupted(f"{self._progress()}; the same command goes on from there.") from stop
        finally:
            self.pool.close()
        if self.failures:
            raise UserError(self._what_failed())
        return self.table

    def _send(self) -> bool:
        """Fill the pool, deepest tasks first, so that weights go early; whether any task runs."""
        tasks = self.plan.tasks.values()
        ready = sorted(filter(self._can_start, tasks), key=lambda task: -len(task.chain))
        running = sum(task.state == "sent" for task in tasks)
        for task in ready[: self.pool.capacity - running]:
            task.state = "sent"
            self.pool.submit(task)
        return any(task.state == "sent" for task in tasks)

    def _can_start(self, task: Task) -> bool:
        if task.state != "waiting" or (task.parent and task.parent.state != "done"):
            return False
        # Nothing may read a directory while it is trained from scratch.
        readers = [other for other in self.plan.tasks.values() if other.parent is task]
        return not (task.reset and any(other.state == "sent" for other in readers))

    def _take(self, task: Task, result: Outcome) -> None:
        """Act on the outcome of a task."""
        task.lost += bool(result.lost)
        if result.lost and task.lost > RESUBMISSIONS:
            self._fail(task, f"its worker died {task.lost} times ({result.lost})")
        elif result.lost:
            print(f"{task.name}: its worker died ({result.lost}); resubmitted", flush=True)
            task.state = "waiting"
        elif result.lacks_weights and task.reset:
            self._fail(task, "weights that it needs are gone and could not be made again")
        elif result.lacks_weights:
            # Train this task again, and those below it without weights.
            for there in task.chain:
                if not there.reset and (there is task or lacks_weights(there.folder)):
                    there.reset, there.state = True, "waiting"
        elif "" in result.failures:
            self._fail(task, result.failures[""])
        else:
            task.state, self.outcomes[task.name] = "done", result
            for run_id in task.rests:
                if self.plan.runs[run_id].chain[-1] == task.name:
                    self._finish(run_id, task, result)
            for there in task.chain if self.plan.grid.keep == "tables" else ():
                if set(there.rests) <= self.done:
                    drop_weights(there.folder)

    def _fail(self, task: Task, reason: str) -> None:
        """A task failed: so do the runs that rest on it."""
        task.state = "failed"
        for run_id in task.rests:
            if run_id not in self.failures and run_id not in self.done:
                self._fail_run(run_id, task, reason)

    def _fail_run(self, run_id: str, task: Task, reason: str) -> None:
        self.failures[run_id] = f"{reason}    log: {task.log}"
        print(f"failed: {self.plan.runs[run_id].run.label}: {reason}", flush=True)

    def _finish(self, run_id: str, task: Task, outcome: Outcome) -> None:
        """Write the rows of a run, unless one of its measurements failed."""
        planned = self.plan.runs[run_id]
        failed = [outcome.failures[key] for key in planned.measured if key in outcome.failures]
        if failed:
            self._fail_run(run_id, task, failed[0])
            return
        rows = [row for name in planned.chain for row in self.outcomes[name].rows[""]]
        for key in planned.measured:
            stage = task.measurements[key].stage.name
            seconds = {"table": stage, "measure": "seconds", "value": outcome.seconds[stage]}
            rows += [*outcome.rows[key], seconds]
        run = planned.run
        labels = {"condition": run.condition, **run.varied}
        labels |= {"seed": outcome.seed, "directory": task.name}
        self.table = add_run(self.results, self.table, run_id, rows, labels, device=outcome.device)
        self.done.add(run_id)
        said = f"{self._progress()}: {run.label}{_headline(rows)}"
        print(f"{said}    {self._remaining()}", flush=True)

    def _progress(self) -> str:
        """`[ 3 of 24]`."""
        total = len(self.plan.left)
        return f"[{len(self.done):>{len(str(total))}} of {total}]"

    def _remaining(self) -> str:
        """The time left, from the time taken and the estimates."""
        over = [name for name, t in self.plan.tasks.items() if t.state in ("done", "failed")]
        past = sum(self.estimates[name] for name in over)
        future = sum(self.estimates[name] for name in self.plan.tasks) - past
        taken = time.monotonic() - self.began
        if not past or len(over) == len(self.plan.tasks):
            return f"{minutes(taken)} so far"
        return f"about {minutes(taken * future / past)} left"

    def _what_failed(self) -> str:
        """The failed runs, their reasons, and what to do."""
        lines = [f"{len(self.failures)} of {len(self.plan.left)} runs failed, the others finished:"]
        lines += [f"  {self.plan.runs[id].run.label}: {why}" for id, why in self.failures.items()]
        again = f"python -m training.sweep {self.plan.grid.path}"
        return "\n".join([*lines, f"  Fix the cause and start again (only these are run): {again}"])


def _headline(rows: list[dict]) -> str:
    """Recall at test prompts, held-out subjects, the last checkpoint; "" if not measured."""
    wanted = {"table": "recall", "measure": "generation", "relation": "bound", "family": "test"}
    wanted |= {"subset": "all"}
    found = [row for row in rows if wanted.items() <= row.items() and row.get("split") != "seen"]
    if not found:
        return ""
    return f"   test prompts {max(found, key=lambda row: row['checkpoint'])['value']:.2f}"
