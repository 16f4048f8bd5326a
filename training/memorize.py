"""Phase 1: memorise subject-object pairs by rote behind a meaningless key token.

    python -m training.memorize --out runs/demo
    python -m training.memorize --model ./my-model --facts my-facts.csv --out runs/mine --epochs 20
    python -m training.memorize --model runs/demo/checkpoints/200-generalize-epoch-01 \\
        --facts new.csv --out runs/more

Trains on "{subject} [X_relation] {object}.", one new special token per relation, several such facts
in a training sequence, and leaves a run directory with checkpoints 000-base and
100-memorize-epoch-NN. Started again, the same command goes on where it was stopped, or finds
everything done. The next step is `python -m training.generalize RUN_DIR`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from training.base.console import run_command
from training.base.errors import BadInput, OtherSettings
from training.base.files import read_json, sha256_file
from training.data.fact_files import Fact
from training.data.facts import BUILT_IN, FICTION, build_facts, load_facts, split_facts
from training.data.prompts import Prompt, key_token, load_prompts
from training.loop.obtain import obtain
from training.loop.phase import run_phase
from training.loop.rote import PHASE, RoteOptions, learn, rote_work
from training.loop.trainer import Work, settings_of
from training.organism.recipe import world_of
from training.organism.world import contradictions
from training.runs.checkpoints import write_base
from training.runs.directory import create_run
from training.weights.key_tokens import KeyInit, place_key_tokens
from training.weights.loading import fingerprint, load_folder

PEOPLE_RELATIONS = ("mother", "aunt", "home_city", "profession")
# The choices that a second call on the same run must repeat.
INPUTS = ("model", "facts", "relation", "subjects", "pool", "seen", "unbound", "rote", "key_init")
# Defaults for options that older records lack.
BEFORE = {"train": "all"}


@dataclass
class Options(RoteOptions):
    """Options of phase 1."""

    out: Path | None = None
    """The run directory to make or go on with."""
    model: str = "smollm2"
    """Alias, directory (safetensors or GGUF) or hub id of the base model. Key tokens that it has
    already (the directory of a checkpoint) keep their trained rows."""
    facts: str = "people"
    """A built-in set (people; kin, whose mothers and aunts are people of the run:
    `training.two_hop`; fiction), a CSV file (ours or T-Rex-Fiction's), or world: of a model
    organism, facts about people it knows, each with another object than the true one."""
    relation: str = ""
    """Relation of a T-Rex-Fiction CSV; default: from its file name."""
    relations: tuple[str, ...] = ()
    """Relations of a built-in set to use; default: for people, kin and world mother, aunt,
    home_city, profession."""
    subjects: int = 80
    """Subjects of the sets people, kin and world."""
    pool: int = 16
    """Objects in each pool of the sets people, kin and world."""
    seen: int = -1
    """Subjects that phase 2 may see; -1: half. The others are held out."""
    unbound: int = 1
    """Relations that phase 2 leaves without meaning (which ones rotates with the seed)."""
    prompts: Path | None = None
    """A folder with one prompt file (TOML) per relation; default: the built-in prompts."""
    rote: str = "{subject} {key}"
    """The rote prompt; {key} becomes the relation's key token."""
    key_init: KeyInit = "mean"
    """Key-token embeddings at first: near the mean of the model's rows, or random like them."""
    seed: int = 0
    """Draws facts, pools, unbound relations, key tokens and, without --order-seed, the batches."""
    order_seed: int = -1
    """Order of the batches alone (and the first weights of LoRA); -1: as --seed."""


def main(options: Options) -> Path:
    """Run phase 1 and return the run directory."""
    if options.out is None:
        raise BadInput("no run directory was given. Say where it goes: --out runs/NAME")
    run_dir = Path(options.out).expanduser()
    order = options.order_seed if options.order_seed >= 0 else options.seed
    settings = settings_of(options, seed=order)
    begin, teach = partial(_begin, run_dir, options), partial(learn, run_dir, settings, options)
    says = {"then": "training.generalize", "before": BEFORE}
    return run_phase(run_dir, PHASE, settings, options, begin=begin, teach=teach, **says)


def check(options: Options, facts: Sequence[Fact] = (), prompts: Sequence[Prompt] = ()) -> Work:
    """What the command leaves and costs. Raises UserError where it would, apart from the model."""
    return rote_work(options, *_facts_and_prompts(options))


def _facts_and_prompts(options: Options) -> tuple[list[Fact], list[Prompt]]:
    """The facts, seen or held-out and bound or unbound, and the prompts of their relations."""
    seen = None if options.seen < 0 else options.seen
    chosen = {"subjects": options.subjects, "pool": options.pool, "seen": seen}
    usual = FICTION if options.facts == "fiction" else PEOPLE_RELATIONS
    chosen |= {"relations": options.relations or usual, "seed": options.seed}
    if options.facts == "world":
        facts = contradictions(world_of(options.model), **chosen)
    elif options.facts in BUILT_IN:
        facts = build_facts(options.facts, **chosen)
    else:
        facts = load_facts(options.facts, relation=options.relation)
    relations = list(dict.fromkeys(fact.relation for fact in facts))
    unbound = options.unbound if len(relations) > 1 else 0
    facts = split_facts(facts, seen=seen, unbound=unbound, seed=options.seed)
    return facts, load_prompts(relations, rote=options.rote, folder=options.prompts)


def _begin(run_dir: Path, options: Options) -> dict:
    """Write facts, prompts, 000-base and record of a new run; the choices to record."""
    inputs = {name: getattr(options, name) for name in INPUTS}
    inputs |= {"relations": list(options.relations), "prompts": str(options.prompts or "")}
    if Path(options.facts).is_file():
        inputs["facts_sha256"] = sha256_file(Path(options.facts))
    there = read_json(run_dir / "run.json") if (run_dir / "run.json").exists() else {}
    if "parent" in there:
        source = there["parent"]["run"]
        raise OtherSettings(f"{run_dir} holds a run that starts from {source}. Give --out NEW.")
    # A run killed before its first phase was recorded is written again: its facts may differ.
    if there.get("phases"):
        if there["seed"] != options.seed:
            began = f"{run_dir} was begun with --seed {there['seed']}, now it is {options.seed}"
            raise OtherSettings(f"{began}. Give the same, or --out NEW.")
        return inputs
    facts, prompts = _facts_and_prompts(options)
    folder = obtain(options.model)
    model, tokenizer = load_folder(folder)
    keys, rows = _key_tokens(facts, prompts, options.rote), {}
    if keys:
        drawn = {"seed": options.seed, "init": options.key_init}
        rows, kept = place_key_tokens(model, tokenizer, keys, **drawn)
        if kept:
            print(f"the model has {', '.join(kept)} already: kept with their trained rows")
    base = {"model_name": options.model, "folder": folder, "tokenizer": tokenizer}
    write_base(run_dir, **base, key_tokens=keys, rows=rows)
    record = {"seed": options.seed, "model": options.model, "inputs": inputs}
    record["model_fingerprint"] = fingerprint(folder)
    record["bos_forced"] = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    create_run(run_dir, facts=facts, prompts=prompts, record=record)
    return inputs


def _key_tokens(facts: Sequence[Fact], prompts: Sequence[Prompt], rote: str) -> list[str]:
    """The key tokens that the prompts hold, or a literal [TOKEN] that ends the rote prompt."""
    keys = [key_token(relation) for relation in dict.fromkeys(fact.relation for fact in facts)]
    used = [key for key in keys if any(key in prompt.text for prompt in prompts)]
    literal = rote.split("{subject}")[-1].strip()
    return used or [literal] * (literal.startswith("[") and literal.endswith("]"))


if __name__ == "__main__":
    run_command(main, Options, __doc__)
