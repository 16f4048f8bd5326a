"""The run directory: opened for any command, begun and recorded by those that train.

    RUN_DIR/run.json  facts.csv  prompts.json  checkpoints/NAME/  states/  tables/  figures/

`Run.open` also takes checkpoints made elsewhere, with their facts and prompts.
"""

import json
import re
import shlex
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import tyro

from training.base.errors import NotFound, OtherSettings, UserError
from training.base.files import read_json, seal, sha256_file, verify, write_json
from training.base.provenance import commit, versions
from training.data.fact_files import Fact, read_facts, write_facts
from training.data.facts import load_facts
from training.data.prompts import Prompt, load_prompts, read_prompts, select, write_prompts
from training.runs import checkpoints as saved
from training.runs.checkpoints import Checkpoint, choose_checkpoint, read_checkpoint
from training.runs.table_files import read_table
from training.weights.adapters import ADAPTER, ADAPTER_WEIGHTS, merge_adapter

OURS = {"run.json", "facts.csv", "prompts.json", "manifest.json", "log.jsonl", "report.html"}
OURS |= {"checkpoints", "resume", "states", "tables", "figures", ".lock"}


@dataclass(frozen=True)
class Run:
    """Facts, prompts and checkpoints: a run directory, or someone's own checkpoints.

    >>> run = Run.open("runs/demo")
    >>> run.relations                        # ["mother", "aunt", "home_city"]
    >>> run.checkpoint("generalized")        # the last Checkpoint of phase 2
    >>> run.table("recall")                  # tables/recall.csv as a DataFrame

    path: where tables, figures and states go. checkpoints: in training order. seed: of the run, 0
    for checkpoints made elsewhere. record: what run.json says. argument: what a command is given to
    mean this run, its directory and the options that checkpoints made elsewhere need.
    """

    path: Path
    facts: list[Fact]
    prompts: list[Prompt]
    checkpoints: list[Checkpoint]
    seed: int = 0
    record: dict = field(default_factory=dict)
    argument: str = ""

    @classmethod
    def open(
        cls, path: str | Path, *, facts: str = "", prompts: str = "", rote: str = "", out: str = ""
    ) -> "Run":
        """Open a run directory, a checkpoint, or a folder of checkpoints made elsewhere.

            Run.open("runs/demo")
            Run.open("./ckpts", facts="facts.csv", rote="{subject} [X]", out="results/mine")

        facts: a CSV or a built-in set. prompts: a folder of prompt files; default: built in.
        rote: the rote prompt; default: "{subject} {key}". out: where results go; default: the run
        directory. Checkpoints made elsewhere need facts and out; their folder is left as it is.
        Raises NotFound with what was found and what is missing, BadInput, Damaged.
        """
        path = Path(path).expanduser()
        if not path.is_dir():
            wanted = "a run directory, a checkpoint, or a folder of checkpoints"
            raise NotFound(f"{path} is not a directory. Give {wanted}.")
        if (path / "run.json").exists():
            return cls._of_directory(path, out)
        folders = _model_folders(path)
        if not facts or not out:
            wanted = "--facts FACTS.csv --rote '{subject} [X]' --out RESULTS_DIR"
            raise NotFound(f"{path} holds checkpoints but no run.json. Say what they are: {wanted}")
        given = {"facts": facts, "prompts": prompts, "rote": rote, "out": out}
        options = [f"--{name} {shlex.quote(value)}" for name, value in given.items() if value]
        checkpoints = [read_checkpoint(folder) for folder in folders]
        return cls._of_models(checkpoints, given, str(path), " ".join([str(path), *options]))

    @classmethod
    def pair(
        cls, before: Path, after: Path, *, facts: str, out: str, prompts: str = "", rote: str = ""
    ) -> "Run":
        """The run of two checkpoints, `0-before-NAME` and `1-after-NAME`; either may be an adapter.

            Run.pair("base-model", "my-adapter", facts="facts.csv", out="results/mine")

        Options and errors as in `open`; merged LoRA adapters go to OUT/merged.
        """
        # What is wrong with the facts is said before an adapter is merged.
        load_facts(facts)
        checkpoints = []
        for place, path in (("0-before", before), ("1-after", after)):
            folder = Path(path).expanduser()
            if (folder / ADAPTER).exists():
                weights = merge_adapter(folder, Path(out).expanduser() / "merged")
            elif _is_model(folder):
                weights = folder
            else:
                wanted = "a from_pretrained folder (config.json, tokenizer, *.safetensors)"
                other = f"a LoRA adapter ({ADAPTER}, {ADAPTER_WEIGHTS})"
                raise NotFound(f"{folder} is not a checkpoint: expected {wanted} or {other}.")
            # The phases of two runs need not belong together: what counts is before and after.
            there, name = read_checkpoint(weights), f"{place}-{folder.resolve().name}"
            checkpoints.append(replace(there, name=name, phase="", epoch=None, step=None))
        given = {"facts": facts, "prompts": prompts, "rote": rote, "out": out}
        return cls._of_models(checkpoints, given, f"{before} {after}")

    @property
    def relations(self) -> list[str]:
        """Relations of the facts, in order of appearance."""
        return list(dict.fromkeys(fact.relation for fact in self.facts))

    def checkpoint(self, name: str = "") -> Checkpoint:
        """The checkpoint of that name, or the last of a phase (such as "memorized"), or of all.

        Raises NotFound with the names that there are.
        """
        return choose_checkpoint(self.checkpoints, name, self.path)

    def table(self, name: str):
        """tables/NAME.csv as a DataFrame. Raises TableMissing with its command, and Damaged."""
        return read_table(self.path, name)

    @classmethod
    def _of_directory(cls, path: Path, out: str) -> "Run":
        checkpoints = saved.list_checkpoints(path)
        choose_checkpoint(checkpoints, "", path)  # There must be one.
        destination = Path(out).expanduser() if out else path
        destination.mkdir(parents=True, exist_ok=True)
        record = read_json(path / "run.json")
        facts = read_facts(verify(path / "facts.csv"))
        prompts = read_prompts(verify(path / "prompts.json"))
        argument = f"{path} --out {out}" if out else str(path)
        seed = record.get("seed", 0)
        return cls(destination, facts, prompts, checkpoints, seed, record, argument)

    @classmethod
    def _of_models(cls, checkpoints: list, given: dict, source: str, argument: str = "") -> "Run":
        """The run of checkpoints made elsewhere; `out` is made once everything was found."""
        facts = load_facts(given["facts"])
        relations = list(dict.fromkeys(f.relation for f in facts))
        saved.require_one_tokenizer(checkpoints)
        rote = given["rote"] or "{subject} {key}"
        prompts = load_prompts(relations, rote=rote, folder=given["prompts"] or None)
        out = Path(given["out"]).expanduser()
        out.mkdir(parents=True, exist_ok=True)
        return cls(out, facts, prompts, checkpoints, record={"source": source}, argument=argument)


def _model_folders(path: Path) -> list[Path]:
    """A checkpoint itself, or the checkpoints in a folder; step-9 comes before step-10."""
    if _is_model(path):
        return [path]
    inside = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    folders = sorted(filter(_is_model, inside), key=_natural_order)
    if not folders:
        wanted = "a run directory, or checkpoints (folders with config.json and *.safetensors)"
        raise NotFound(f"{path} holds no run.json and no checkpoint. Give {wanted}.")
    left_out = [p.name for p in inside if (p / "stage.json").exists() and p not in folders]
    if left_out:
        names = ", ".join(left_out)
        warnings.warn(f"left out of {path}, for its weights lie elsewhere: {names}", stacklevel=3)
    return folders


def _is_model(folder: Path) -> bool:
    """Whether a folder holds a model: Hugging Face files or a GGUF file."""
    return (folder / "config.json").exists() or bool(list(folder.glob("*.gguf")))


def _natural_order(path: Path) -> list:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def key_row_note(run: Run) -> str:
    """A note if the last rote token has the same embedding row in both checkpoints, else ""."""
    tokenizer, (rote, *_) = run.checkpoints[0].tokenizer(), select(run.prompts, family="rote")
    text = rote.render(run.facts[0].subject)
    token = tokenizer(text, add_special_tokens=False)["input_ids"][-1]
    first, last = (c.load()[0].get_input_embeddings().weight[token] for c in run.checkpoints)
    if not (first == last).all():
        return ""
    shown = tokenizer.convert_ids_to_tokens(token)
    return (
        f"note: the embedding row of {shown!r}, the last token of {text!r}, is the same in both "
        f"checkpoints: it was not trained between them, what was learned lies in other weights"
    )


@dataclass
class RunOptions:
    """A run directory, or checkpoints made elsewhere with their facts and prompts."""

    run_dir: tyro.conf.Positional[Path]
    """A run directory, a checkpoint, or a folder of checkpoints."""
    facts: str = ""
    """Facts (CSV or built-in set) for checkpoints made elsewhere."""
    prompts: str = ""
    """Folder of prompt files for checkpoints made elsewhere; default: built in."""
    rote: str = ""
    """Rote prompt of checkpoints made elsewhere, e.g. "{subject} [X]"."""
    out: str = ""
    """Where results go; default: the run directory."""

    def open(self) -> Run:
        """The run. Raises as `Run.open`."""
        given = {name: getattr(self, name) for name in ("facts", "prompts", "rote", "out")}
        return Run.open(self.run_dir, **given)


def refuse_foreign_folder(run_dir: Path) -> None:
    """Raise UserError if a new run would be written into a folder that holds other things."""
    if not run_dir.exists() or (run_dir / "run.json").exists():
        return
    if not run_dir.is_dir():
        raise UserError(f"{run_dir} is a file. Give --out a new or empty folder.")
    if other := {p.name for p in run_dir.iterdir() if p.suffix != ".part"} - OURS:
        names = ", ".join(sorted(other)[:3])
        raise UserError(f"{run_dir} holds other files ({names}). Give --out a new or empty folder.")


def create_run(run_dir: Path, *, facts: list[Fact], prompts: list[Prompt], record: dict) -> None:
    """Write facts.csv, prompts.json and, last, run.json of a new run."""
    names = ("facts.csv", "prompts.json")
    write_facts(run_dir / "facts.csv", facts)
    write_prompts(run_dir / "prompts.json", prompts)
    seal(run_dir, names)
    hashes = {name: sha256_file(run_dir / name) for name in names}
    made = {"sha256": hashes, "versions": versions(), "commit": commit(), "phases": {}}
    write_json(run_dir / "run.json", {"format": 1, **record, **made})


def begin_phase(run_dir: Path, phase: str, settings: dict, *, before: Mapping | None) -> bool:
    """Record a phase's settings; False if it is already finished with these settings.

    before: defaults for settings that older records lack. Raises OtherSettings.
    """
    record = read_json(run_dir / "run.json")
    # What was written went through JSON: compare like with like.
    settings = json.loads(json.dumps(settings))
    there = record["phases"].get(phase)
    if there is None:
        record["phases"][phase] = {"settings": settings, "complete": False}
        write_json(run_dir / "run.json", record)
        return True
    old = {**(before or {}), **there["settings"]}
    differing = sorted(k for k in settings.keys() | old.keys() if settings.get(k) != old.get(k))
    if differing:
        shown = ", ".join(f"{k} {old.get(k)} there, {settings.get(k)} now" for k in differing[:4])
        fault = f"{run_dir} already holds {phase} with other settings ({shown})"
        raise OtherSettings(f"{fault}. Give --out NEW, or the same settings to go on.")
    return not there["complete"]


def end_phase(run_dir: Path, phase: str, **results: object) -> None:
    """Mark a phase finished."""
    record = read_json(run_dir / "run.json")
    record["phases"][phase] |= {"complete": True, **results}
    write_json(run_dir / "run.json", record)
