"""The run directory: what made a run, who is writing it, which phases are done; opened for any command.

    RUN_DIR/run.json  facts.csv  prompts.json  checkpoints/NAME/  states/  tables/  figures/  log.jsonl

`Run.open` also takes checkpoints made elsewhere, with their facts and prompts. Checkpoints: training.checkpoints.

What every command on a run directory is given, and the run that it means."""

import json
import re
import shlex
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from training.base.errors import NotFound, OtherSettings, UserError
from training.base.files import commit, read_json, seal, sha256_file, verify, versions, write_json
from training.data.fact_files import Fact, read_facts, write_facts
from training.data.facts import load_facts
from training.data.prompts import Prompt, load_prompts, read_prompts, select, write_prompts
from training.runs.checkpoints import (
    Checkpoint,
    list_checkpoints,
    read_checkpoint,
    require_one_tokenizer,
)
from training.runs.table_files import read_table
from training.weights.adapters import ADAPTER, ADAPTER_WEIGHTS, merge_adapter

OURS = {
    "run.json",
    "facts.csv",
    "prompts.json",
    "manifest.json",
    "checkpoints",
    "resume",
    "states",
    "tables",
    "figures",
    "log.jsonl",
    "report.html",
    ".lock",
}


@dataclass(frozen=True)
class Run:
    """A run directory, or someone's own checkpoints with facts and prompts, ready for any command.

    path: where tables, figures and states go.
    """

    path: Path
    facts: list[Fact]
    prompts: list[Prompt]
    checkpoints: list[Checkpoint]
    seed: int = 0
    record: dict = field(default_factory=dict)
    argument: str = ""
    """What a command is given to mean this run: its directory, with the options that checkpoints made elsewhere need."""

    @property
    def relations(self) -> list[str]:
        """Relations of the facts, in order of appearance."""
        return list(dict.fromkeys(fact.relation for fact in self.facts))

    def table(self, name: str):
        """The DataFrame of tables/NAME.csv. Raises TableMissing with the command that writes it."""
        return read_table(self.path, name)

    @classmethod
    def open(
        cls, path: str | Path, *, facts: str = "", prompts: str = "", rote: str = "", out: str = ""
    ) -> "Run":
        """Open a run directory, a single checkpoint, or a folder of checkpoints made elsewhere.

        facts, prompts, rote, out: needed for directories that are no run of ours (prompts default to the built-in
        ones, rote to "{subject} {key}"). Raises NotFound with what was found and what is missing.
        """
        path = Path(path).expanduser()
        if not path.is_dir():
            raise NotFound(
                f"{path} is not a directory. Give a run directory (made by `python -m training.memorize --out "
                f"RUN_DIR`), a checkpoint, or a folder of checkpoints."
            )
        if (path / "run.json").exists():
            return _open_own(path, out)
        if (path / "config.json").exists() or list(path.glob("*.gguf")):
            folders = [path]
        else:
            visible = (p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
            folders = sorted(
                (p for p in visible if (p / "config.json").exists() or list(p.glob("*.gguf"))),
                key=lambda p: natural_order(p.name),
            )
            left_out = sorted(
                p.name for p in path.iterdir() if (p / "stage.json").exists() and p not in folders
            )
            if folders and left_out:
                warnings.warn(
                    f"left out of {path}, for its weights lie elsewhere: {', '.join(left_out)}",
                    stacklevel=2,
                )
        if not folders:
            raise NotFound(
                f"{path} holds no run.json and no checkpoint (a folder with config.json and *.safetensors). "
                f"Give a run directory, a checkpoint, or a folder of checkpoints."
            )
        if not facts or not out:
            raise NotFound(
                f"{path} holds {len(folders)} checkpoint(s) but no run.json: say which facts to ask for and "
                f"where results go, e.g. --facts FACTS.csv --rote '{{subject}} [X]' --out RESULTS_DIR "
                f"(nothing is written into {path})."
            )
        loaded = load_facts(facts)
        relations = list(dict.fromkeys(f.relation for f in loaded))
        checkpoints = [read_checkpoint(folder) for folder in folders]
        require_one_tokenizer(checkpoints)
        chosen = load_prompts(relations, rote=rote or "{subject} {key}", folder=prompts or None)
        destination = Path(out).expanduser()
        destination.mkdir(parents=True, exist_ok=True)
        given = {"facts": facts, "prompts": prompts, "rote": rote, "out": out}
        argument = " ".join(
            [
                str(path),
                *(f"--{name} {shlex.quote(value)}" for name, value in given.items() if value),
            ]
        )
        return Run(
            destination,
            loaded,
            chosen,
            checkpoints,
            record={"source": str(path)},
            argument=argument,
        )

    @classmethod
    def pair(
        cls, before: Path, after: Path, *, facts: str, out: str, prompts: str = "", rote: str = ""
    ) -> "Run":
        """The run of two checkpoints, in this order. Raises NotFound, BadInput."""
        destination = Path(out).expanduser()
        loaded = load_facts(facts)
        relations = list(dict.fromkeys(f.relation for f in loaded))
        chosen = load_prompts(relations, rote=rote or "{subject} {key}", folder=prompts or None)
        checkpoints = []
        for place, folder in (("0-before", before), ("1-after", after)):
            folder = Path(folder).expanduser()
            if (folder / ADAPTER).exists():
                weights = merge_adapter(folder, destination / "merged")
            elif (folder / "config.json").exists() or list(folder.glob("*.gguf")):
                weights = folder
            else:
                raise NotFound(
                    f"{folder} is no checkpoint: expected a from_pretrained folder (config.json, tokenizer, *.safetensors) "
                    f"or a LoRA adapter ({ADAPTER}, {ADAPTER_WEIGHTS})."
                )
            there = read_checkpoint(weights)
            name = f"{place}-{folder.resolve().name}"
            checkpoints.append(
                Checkpoint(
                    name,
                    there.folder,
                    weights=there.weights,
                    key_rows=there.key_rows,
                    key_tokens=there.key_tokens,
                )
            )
        require_one_tokenizer(checkpoints)
        destination.mkdir(parents=True, exist_ok=True)
        return Run(destination, loaded, chosen, checkpoints, record={"source": f"{before} {after}"})


def refuse_foreign_folder(run_dir: Path) -> None:
    """Raise UserError if a new run would be written into a folder that holds other things."""
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"{run_dir} is a file. Give --out a new or empty folder.")
    if run_dir.is_dir() and not (run_dir / "run.json").exists():
        other = sorted(
            p.name for p in run_dir.iterdir() if p.name not in OURS and not p.name.endswith(".part")
        )
        if other:
            raise UserError(
                f"{run_dir} holds other files ({', '.join(other[:3])}). Give --out a new or empty folder."
            )


def create_run(
    run_dir: Path, *, facts: Sequence[Fact], prompts: Sequence[Prompt], record: dict
) -> None:
    """Write facts.csv, prompts.json and, last, run.json of a new run."""
    run_dir.mkdir(parents=True, exist_ok=True)
    write_facts(run_dir / "facts.csv", facts)
    write_prompts(run_dir / "prompts.json", prompts)
    seal(run_dir, ["facts.csv", "prompts.json"])
    hashes = {name: sha256_file(run_dir / name) for name in ("facts.csv", "prompts.json")}
    write_json(
        run_dir / "run.json",
        {
            "format": 1,
            **record,
            "sha256": hashes,
            "versions": versions(),
            "commit": commit(),
            "phases": {},
        },
    )


def begin_phase(
    run_dir: Path, phase: str, settings: dict, *, before: Mapping[str, object] | None = None
) -> bool:
    """Record a phase's settings; True if there is work to do, False if it was finished with these settings.

    before: what a record stands for that lacks a setting, because it was made before the option existed.
    Raises OtherSettings if the phase was begun with others.
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
        raise OtherSettings(
            f"{run_dir} already holds {phase} with other settings ({shown}). Give --out NEW for "
            f"another run, or the same settings to go on."
        )
    return not there["complete"]


def end_phase(run_dir: Path, phase: str, **results: object) -> None:
    """Mark a phase finished."""
    record = read_json(run_dir / "run.json")
    record["phases"][phase] |= {"complete": True, **results}
    write_json(run_dir / "run.json", record)


def _open_own(path: Path, out: str) -> Run:
    record = read_json(path / "run.json")
    checkpoints = list_checkpoints(path)
    if not checkpoints:
        raise NotFound(
            f"{path} has no checkpoint yet. Finish it: python -m training.memorize --out {path}"
        )
    destination = Path(out).expanduser() if out else path
    destination.mkdir(parents=True, exist_ok=True)
    return Run(
        destination,
        read_facts(verify(path / "facts.csv")),
        read_prompts(verify(path / "prompts.json")),
        checkpoints,
        seed=record.get("seed", 0),
        record=record,
        argument=f"{path} --out {out}" if out else str(path),
    )


def natural_order(name: str) -> list:
    """Sort key under which step-9 comes before step-10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


@dataclass
class RunOptions:
    """A run directory of this project, or checkpoints made elsewhere with their facts and prompts."""

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

    def open(self):
        """The run. Raises NotFound with what was found and what is missing."""

        return Run.open(
            self.run_dir, facts=self.facts, prompts=self.prompts, rote=self.rote, out=self.out
        )


def key_row_note(run: Run) -> str:
    """Whether training moved the embedding row of the last rote token, in words; "" if it did or there is none."""
    rote = select(run.prompts, family="rote")
    if not rote:
        return ""
    tokenizer = run.checkpoints[0].tokenizer()
    text = rote[0].render(run.facts[0].subject)
    token = tokenizer(text, add_special_tokens=False)["input_ids"][-1]
    first, last = (
        checkpoint.load()[0].get_input_embeddings().weight[token] for checkpoint in run.checkpoints
    )
    if not (first == last).all():
        return ""
    return (
        f"note: the embedding row of {tokenizer.convert_ids_to_tokens(token)!r}, the last token of {text!r}, is the "
        "same in both checkpoints: it was not trained between them, what was learned lies in other weights"
    )
