"""Where the tasks of a sweep run: in this process, in several processes, or on a Ray cluster.

A pool takes `capacity` tasks at a time (`submit`) and hands back (task, outcome). If a worker died,
the outcome says so: one death costs one run, and the driver may resubmit it.
"""

import contextlib
import os
import threading
import time
import uuid
import warnings
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, wait
from pathlib import Path

from training.base.errors import BadInput, NotFound
from training.base.files import write_text
from training.grid.plan import Task
from training.grid.tasks import Outcome, run_task

Result = tuple[Task, Outcome]


def make_pool(
    work: Path, jobs: int, backend: str = "joblib", address: str = "", gpus_a_run: float = 0.0
):
    """The pool that a sweep's options ask for."""
    if backend == "ray":
        return Ray(jobs, address, gpus_a_run, work)
    return Processes(jobs) if jobs > 1 else ThisProcess()


class ThisProcess:
    """One job at a time, here."""

    capacity = 1

    def submit(self, task: Task) -> None:
        """Take a task."""
        self.task = task

    def results(self) -> list[Result]:
        """Run it."""
        return [(self.task, run_task(self.task))]

    def close(self) -> None:
        """Nothing to leave."""


class Processes:
    """`count` processes; with several GPUs each sees one, assigned round-robin."""

    def __init__(self, count: int) -> None:
        import torch

        self.capacity = count
        self.gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        # An executor with one worker per slot: joblib fails a whole executor when one worker dies.
        self.slots: list = [None] * count
        self.running: dict = {}
        # joblib replaces a process that has grown by 300 MB between two tasks, which is welcome.
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs")

    def submit(self, task: Task) -> None:
        """Start a task in a free slot."""
        taken = {slot for slot, _ in self.running.values()}
        slot = next(i for i in range(self.capacity) if i not in taken)
        self.slots[slot] = self.slots[slot] or self._executor(slot)
        self.running[self.slots[slot].submit(run_task, task)] = (slot, task)

    def _executor(self, slot: int):
        from joblib.externals.loky import ProcessPoolExecutor

        share = max(1, (os.cpu_count() or 1) // self.capacity)
        threads = os.environ.get("OMP_NUM_THREADS", str(share))
        env = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        if self.gpus > 1:
            env["CUDA_VISIBLE_DEVICES"] = str(slot % self.gpus)
        first = {"initializer": _end_with, "initargs": (os.getpid(),)}
        return ProcessPoolExecutor(max_workers=1, env=env, **first)

    def results(self) -> list[Result]:
        """Wait until a task has ended; return all that have."""
        done, _ = wait(list(self.running), return_when=FIRST_COMPLETED)
        found: list[Result] = []
        for future in done:
            slot, task = self.running.pop(future)
            try:
                found.append((task, future.result()))
            except BrokenExecutor as error:
                self.slots[slot].shutdown(wait=False, kill_workers=True)
                self.slots[slot] = None
                found.append((task, Outcome(task.name, lost=_line(error, 120))))
        return found

    def close(self) -> None:
        """Let running tasks save what they have (Ctrl-C reached them too), then end all."""
        left = wait(list(self.running), timeout=60).not_done if self.running else ()
        for executor in self.slots:
            if executor is not None:
                executor.shutdown(wait=True, kill_workers=bool(left))


def _end_with(parent: int) -> None:
    """In a worker: end when the driver is gone, so that a restarted sweep finds no run busy."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Ray:
    """Ray tasks. address: of a running cluster; "": start one here with `count` CPUs."""

    def __init__(self, count: int, address: str, gpus_a_run: float, work: Path) -> None:
        try:
            import ray
        except ImportError as error:
            remedy = "pip install 'latent-alignment[cluster]'"
            raise NotFound(f"--backend ray needs the package ray: {remedy}") from error
        self.ray, self.running, self.ours = ray, {}, not ray.is_initialized()
        if self.ours:
            _start_ray(ray, count, address)
        cpus = int(ray.cluster_resources().get("CPU", count)) if address else count
        self.capacity = max(1, cpus)
        require_shared(ray, work)
        # The driver counts lost workers, so Ray itself resubmits nothing.
        self.remote = ray.remote(num_cpus=1, num_gpus=gpus_a_run, max_retries=0)(run_task)

    def submit(self, task: Task) -> None:
        """Send a task to the cluster."""
        self.running[self.remote.remote(task)] = task

    def results(self) -> list[Result]:
        """Wait until a task has ended; return it."""
        (reference,), _ = self.ray.wait(list(self.running), num_returns=1)
        task = self.running.pop(reference)
        try:
            return [(task, self.ray.get(reference))]
        except self.ray.exceptions.RayTaskError:
            raise
        except self.ray.exceptions.RayError as error:
            lost = f"{type(error).__name__}: {_line(error, 120)}"
            return [(task, Outcome(task.name, lost=lost))]

    def close(self) -> None:
        """Leave the cluster, or end it if it was started here."""
        for reference in self.running:
            with contextlib.suppress(Exception):
                self.ray.cancel(reference, force=True)
        if self.ours:
            self.ray.shutdown()


def _start_ray(ray, count: int, address: str) -> None:
    root = str(Path(__file__).resolve().parent.parent.parent)
    passed = {k: os.environ[k] for k in ("OMP_NUM_THREADS", "HF_HUB_OFFLINE") if k in os.environ}
    passed["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    how = {"address": address} if address else {"num_cpus": count, "include_dashboard": False}
    env = {"env_vars": passed}
    try:
        ray.init(**how, log_to_driver=False, logging_level="error", runtime_env=env)
    except (ConnectionError, RuntimeError, ValueError) as error:
        what = f"no Ray cluster at {address or 'this machine'} ({error})"
        remedy = "Start one (ray start --head), or leave out --address."
        raise NotFound(f"{what}. {remedy}") from error


def require_shared(ray, work: Path) -> None:
    """Raise BadInput unless every machine of the cluster has the folder `work` of this one."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    note = work.resolve() / f".shared-{uuid.uuid4().hex}"
    write_text(note, "")
    ask, asked = ray.remote(num_cpus=0, max_retries=0)(_is_there), {}
    try:
        for node in ray.nodes():
            if node["Alive"] and node["Resources"].get("CPU"):
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                answer = ask.options(scheduling_strategy=there).remote(note)
                asked[answer] = node["NodeManagerHostname"]
        for answer, host in asked.items():
            try:
                shared = ray.get(answer, timeout=300)
            except Exception as error:
                why = f"{host} cannot run this code ({type(error).__name__}: {_line(error, 200)})"
                raise BadInput(f"{why}. Put this checkout at the same path there.") from error
            if not shared:
                why = f"{work} on {host} is not the folder of that name here"
                raise BadInput(f"{why}. Give --work on a file system that all machines share.")
    finally:
        note.unlink()


def _is_there(note: Path) -> bool:
    return note.exists()


def _line(error: Exception, most: int) -> str:
    return " ".join(str(error).split())[:most]
