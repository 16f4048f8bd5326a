"""Where the jobs of a sweep run: in this process, in processes of its own, or on a Ray cluster.

Every pool takes one job a slot and hands back (job, result); a result is an Outcome, or Lost where the worker died
(killed, out of memory, its machine gone), so that one death costs one run and the driver may send it again. joblib's
own pools fail the whole call then; therefore its process executor is used with one worker a slot.

One task of a sweep, in whatever process it is run: train the directory, measure it, hand back its rows.

What the commands print goes to the task's log. Nothing is raised but Ctrl-C: what went wrong is in the outcome, so
that one failing run leaves the others alone and can be sent from any process.
"""

import contextlib
import os
import shutil
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, wait
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from training.base.console import Interrupted
from training.base.errors import BadInput, NotFound, UserError
from training.base.files import read_json, sha256_text, write_text
from training.base.provenance import device_name
from training.grid.file import Call
from training.grid.plan import Job
from training.grid.rows import headline_rows, training_rows
from training.runs.checkpoints import WeightsDropped
from training.runs.table_files import TableMissing, read_table


@dataclass
class Outcome:
    """What came of a job. rows: key of the measurement ("" for the training) -> rows; seconds: stage -> seconds."""

    name: str
    seed: int | None = None
    rows: dict[str, list[dict]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    """Key of the measurement ("" for the training) -> what went wrong, in one line."""
    device: str = "cpu"
    """What it ran on."""
    lacks_weights: bool = False
    """Nothing failed, but weights that are needed were deleted: train the directory's chain anew."""


REMEDY_RAY = "Install it: pip install 'latent-alignment[cluster]'"


@dataclass(frozen=True)
class Lost:
    """A job whose worker died; reason in words."""

    reason: str


Result = tuple[Job, Outcome | Lost]


class ThisProcess:
    """One job at a time, here."""

    capacity = 1

    def __init__(self) -> None:
        self.waiting: list[Job] = []

    def submit(self, job: Job) -> None:
        """Take a job."""
        self.waiting.append(job)

    def results(self) -> list[Result]:
        """Run what was taken."""
        job = self.waiting.pop()
        return [(job, run_job(job))]

    def close(self) -> None:
        """Nothing to leave."""


class Processes:
    """`count` processes; with several GPUs each sees one, by turns."""

    def __init__(self, count: int, gpus: int = 0) -> None:
        self.capacity = count
        self.threads = max(1, (os.cpu_count() or 1) // count)
        self.gpus = gpus
        self.slots: list = [None] * count
        self.running: dict = {}
        # A process that has grown by 300 MB is replaced between two jobs, which is as it should be.
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs")

    def submit(self, job: Job) -> None:
        """Start a job in a free slot."""
        slot = next(
            i for i in range(self.capacity) if i not in {s for s, _ in self.running.values()}
        )
        if self.slots[slot] is None:
            self.slots[slot] = self._executor(slot)
        self.running[self.slots[slot].submit(run_job, job)] = (slot, job)

    def _executor(self, slot: int):
        from joblib.externals.loky import ProcessPoolExecutor

        threads = os.environ.get("OMP_NUM_THREADS", str(self.threads))
        env = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        if self.gpus > 1:
            env["CUDA_VISIBLE_DEVICES"] = str(slot % self.gpus)
        return ProcessPoolExecutor(
            max_workers=1, env=env, initializer=_end_with, initargs=(os.getpid(),)
        )

    def results(self) -> list[Result]:
        """Wait until a job has ended; give all that have."""
        done, _ = wait(list(self.running), return_when=FIRST_COMPLETED)
        found: list[Result] = []
        for future in done:
            slot, job = self.running.pop(future)
            try:
                found.append((job, future.result()))
            except BrokenExecutor as error:
                self.slots[slot].shutdown(wait=False, kill_workers=True)
                self.slots[slot] = None
                found.append((job, Lost(" ".join(str(error).split())[:120])))
        return found

    def close(self) -> None:
        """Let running jobs save what they have (Ctrl-C reached them too), then end the processes."""
        left = wait(list(self.running), timeout=60).not_done if self.running else ()
        for executor in self.slots:
            if executor is not None:
                executor.shutdown(wait=True, kill_workers=bool(left))


def _end_with(parent: int) -> None:
    """In a worker: end when the driver has gone (killed), so that a restarted sweep finds no run in use."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Ray:
    """The jobs as independent Ray tasks. address: of a running cluster, "" for one started here with `count` CPUs."""

    def __init__(self, count: int, address: str, gpus_a_run: float, work: Path) -> None:
        try:
            import ray
        except ImportError as error:
            raise NotFound(
                f"--backend ray needs the package ray, which is not installed. {REMEDY_RAY}"
            ) from error
        self.ray = ray
        self.ours = not ray.is_initialized()
        if self.ours:
            root = str(Path(__file__).resolve().parent.parent.parent)
            paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
            threads = {
                k: os.environ.get(k, "1")
                for k in ("OMP_NUM_THREADS", "HF_HUB_OFFLINE")
                if k in os.environ
            }
            how = (
                {"address": address} if address else {"num_cpus": count, "include_dashboard": False}
            )
            try:
                ray.init(
                    **how,
                    log_to_driver=False,
                    logging_level="error",
                    runtime_env={"env_vars": {"PYTHONPATH": paths, **threads}},
                )
            except (ConnectionError, RuntimeError, ValueError) as error:
                where = address or "this machine"
                raise NotFound(
                    f"no Ray cluster at {where} ({error}). Start one (ray start --head), or leave out --address."
                ) from error
        self.capacity = (
            count if not address else max(1, int(ray.cluster_resources().get("CPU", count)))
        )
        require_shared(ray, work)
        # Lost workers are counted here, so Ray itself sends nothing again.
        self.remote = ray.remote(num_cpus=1, num_gpus=gpus_a_run, max_retries=0)(run_job)
        self.running: dict = {}

    def submit(self, job: Job) -> None:
        """Send a job to the cluster."""
        self.running[self.remote.remote(job)] = job

    def results(self) -> list[Result]:
        """Wait until a job has ended; give all that have."""
        ready, _ = self.ray.wait(list(self.running), num_returns=1)
        found: list[Result] = []
        for reference in ready:
            job = self.running.pop(reference)
            try:
                found.append((job, self.ray.get(reference)))
            except self.ray.exceptions.RayTaskError:
                raise
            except self.ray.exceptions.RayError as error:
                found.append(
                    (job, Lost(f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"))
                )
        return found

    def close(self) -> None:
        """Leave the cluster, or end it if it was started here."""
        for reference in self.running:
            with contextlib.suppress(Exception):
                self.ray.cancel(reference, force=True)
        if self.ours:
            self.ray.shutdown()


def require_shared(ray, work: Path) -> None:
    """Raise BadInput unless every machine of the cluster reads and writes the folder that the driver does."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    word = sha256_text(f"{os.getpid()} {time.time_ns()}")[:16]
    with _note(work, word) as folder:
        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        asked = {}
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[node["NodeManagerHostname"], node["NodeID"]] = (
                ray.remote(num_cpus=0, max_retries=0)(answer_note)
                .options(scheduling_strategy=there)
                .remote(folder, word, node["NodeID"])
            )
        for (host, node), reference in asked.items():
            try:
                answered = ray.get(reference, timeout=300)
            except Exception as error:
                raise BadInput(
                    f"{host} cannot run this code ({type(error).__name__}: {' '.join(str(error).split())[:200]}). "
                    "Install latent-alignment, or put this checkout at the same path, on every machine of the cluster."
                ) from error
            if not answered or not (folder / node).exists():
                raise BadInput(
                    f"{work} is not the same folder on {host} as here. Give --work on a file system that all machines "
                    "of the cluster share."
                )


@contextlib.contextmanager
def _note(work: Path, word: str) -> Iterator[Path]:
    """A folder in `work` with a word in it, gone afterwards."""
    import shutil

    folder = work.resolve() / f".shared-{word}"
    write_text(folder / "word", word)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def answer_note(folder: Path, word: str, name: str) -> bool:
    """On a machine of the cluster: whether the word is there; an answer is written beside it."""
    if not (folder / "word").is_file() or (folder / "word").read_text(encoding="utf-8") != word:
        return False
    write_text(folder / name, word)
    return True


KEPT_ON_RESET = ("states", "tables", ".lock")


def run_job(job: Job) -> Outcome:
    """Train and measure one directory; what is there already is found and not done again."""

    outcome = Outcome(job.name, device=device_name())
    if job.cwd.is_dir():
        os.chdir(job.cwd)
    with _logged(job.log):
        print(
            f"== {job.name}: process {os.getpid()} on {socket.gethostname()}, {time.strftime('%Y-%m-%d %H:%M:%S')}"
        )
        if job.reset:
            reset(job.folder)
        with _failure_into(outcome, "", job.call.stage.name):
            _train(job)
            outcome.rows[""] = _training_rows(job)

            outcome.seed = read_json(job.folder / "run.json")["seed"]
        for key, call in (
            job.measurements if not outcome.failures and not outcome.lacks_weights else ()
        ):
            with _failure_into(outcome, key, call.stage.name):
                outcome.rows[key] = _measure(job, call)
    return outcome


def reset(folder: Path) -> None:
    """Make a directory untrained, keeping the states and tables that were computed in it."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in KEPT_ON_RESET:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _train(job: Job) -> None:
    ours = {"out": job.folder} if job.parent is None else {"run_dir": job.parent, "out": job.folder}
    import_module(job.call.stage.command).main(job.call.build(**ours))


def _training_rows(job: Job) -> list[dict]:

    stage = job.call.stage
    rows = training_rows(job.folder, stage.phase)
    return [{"table": "training", **row, "phase": stage.name} for row in rows]


def _measure(job: Job, call: Call) -> list[dict]:
    """The rows that a measuring command's table gives the sweep."""

    import_module(call.stage.command).main(call.build(run_dir=job.folder, out=str(job.folder)))
    names = [call.stage.name, *(n for n in job.rows if n.startswith(f"{call.stage.name}_"))]
    rows = []
    for name in names:
        try:
            table = read_table(job.folder, name)
        except TableMissing:
            continue
        found = headline_rows(table, job.rows.get(name), name=name)
        rows += [{"table": name, **row} for row in found.to_dict("records")]
    return rows


@contextlib.contextmanager
def _failure_into(outcome: Outcome, key: str, stage: str) -> Iterator[None]:
    """Turn what goes wrong in the block into a line of the outcome, and note the seconds of the stage."""

    began = time.monotonic()
    try:
        yield
        outcome.seconds[stage] = round(time.monotonic() - began, 2)
    except (Interrupted, KeyboardInterrupt):
        raise
    except WeightsDropped:
        outcome.lacks_weights = True
    except UserError as error:
        print(f"{stage} failed: {error}")
        outcome.failures[key] = f"{stage}: {error}"
    except (
        Exception,
        SystemExit,
    ) as error:  # whatever a library raises, one run must not end the others
        traceback.print_exc()
        line = " ".join(str(error).split())[:300]
        outcome.failures[key] = (
            f"{stage}: {type(error).__name__}: {line} (its traceback is in the log)"
        )


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Send what Python code prints, and its warnings, to the end of a file."""
    import warnings

    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        open(path, "a", encoding="utf-8", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
        warnings.catch_warnings(),
    ):
        warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=file)
        yield
