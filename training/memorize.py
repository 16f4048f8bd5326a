"""Phase 1: memorise subject-object pairs by rote behind a meaningless key token.

    python -m training.memorize --out runs/demo
    python -m training.memorize --model ./my-model --facts my-facts.csv --out runs/mine --epochs 20
    python -m training.memorize --model runs/demo/checkpoints/200-generalize-epoch-01 --facts new.csv --out runs/more

Trains on "{subject} [X_relation] {object}.", one new special token a relation, several such facts in a training
sequence, and leaves a run directory
with checkpoints 000-base and 100-memorize-epoch-NN. Started again, the same command goes on where it was
stopped, or finds everything done. The next step is `python -m training.generalize RUN_DIR`.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from training.base.console import first_process_first, run_command
from training.base.errors import OtherSettings, UserError
from training.base.files import read_json, sha256_file
from training.base.locks import locked
from training.data.facts import build_facts, load_facts, split_facts
from training.data.prompts import key_token, load_prompts
from training.loop.obtain import obtain
from training.loop.rote import RoteOptions, learn, settings_of
from training.loop.trainer import ROTE_TOKENS, Work, steps_of
from training.organism.recipe import world_of
from training.organism.world import contradictions
from training.runs.checkpoints import write_base
from training.runs.directory import begin_phase, create_run, refuse_foreign_folder
from training.weights.key_tokens import KeyInit, place_key_tokens
from training.weights.loading import fingerprint, load_folder

WORLD = "world"


DEFAULT_RELATIONS = {
    "people": ("mother", "aunt", "home_city", "profession"),
    "fiction": ("author", "capital", "educated_at", "genre", "mother"),
}


DEFAULT_RELATIONS[WORLD] = DEFAULT_RELATIONS["kin"] = DEFAULT_RELATIONS["people"]


# What a run stands for that was recorded before the option existed.
BEFORE = {"train": "all"}


@dataclass
class Options(RoteOptions):
    """Options of phase 1."""

    out: Path | None = None
    """The run directory to make or go on with."""
    model: str = "smollm2"
    """Alias, directory (safetensors or GGUF) or hub id of the base model. Key tokens that it has already (the
    directory of a checkpoint) keep their trained rows."""
    facts: str = "people"
    """A built-in set (people; kin, whose mothers and aunts are people of the run: `training.two_hop`; fiction), a CSV
    file (ours or T-Rex-Fiction's), or world: of a model organism, facts about people it knows, each with another object
    than the true one."""
    relation: str = ""
    """Relation of a T-Rex-Fiction CSV; default: from its file name."""
    relations: tuple[str, ...] = ()
    """Relations of a built-in set to use; default: for people, kin and world mother, aunt, home_city, profession."""
    subjects: int = 80
    """Subjects of the sets people, kin and world."""
    pool: int = 16
    """Objects in each pool of the sets people, kin and world."""
    seen: int = -1
    """Subjects that phase 2 may see; -1: half. The others are held out."""
    unbound: int = 1
    """Relations that phase 2 leaves without meaning (which ones rotates with the seed)."""
    prompts: Path | None = None
    """A folder with one prompt file (TOML) a relation; default: the built-in prompts."""
    rote: str = "{subject} {key}"
    """The rote prompt; {key} becomes the relation's key token."""
    key_init: KeyInit = "mean"
    """How key-token embeddings begin: near the mean of the model's rows, or random rows like the model's own."""
    seed: int = 0
    """Draws facts, pools, unbound relations, key tokens and, but for --order-seed, the order of batches."""
    order_seed: int = -1
    """Order of the batches alone (and the first weights of LoRA); -1: as --seed."""


def main(options: Options) -> Path:
    """Run phase 1 and return the run directory."""

    if options.out is None:
        raise UserError("no run directory was given. Say where it goes: --out runs/NAME")
    run_dir = Path(options.out).expanduser()
    settings = settings_of(
        options, seed=options.order_seed if options.order_seed >= 0 else options.seed
    )
    refuse_foreign_folder(run_dir)
    with locked(run_dir):
        with first_process_first():
            record = _begin(run_dir, options)
            chosen = {
                **asdict(settings),
                "save_epochs": list(options.save_epochs),
                **record["inputs"],
            }
            unfinished = begin_phase(run_dir, "memorize", chosen, before=BEFORE)
        if not unfinished:
            print(
                f"memorize is finished in {run_dir}    next: python -m training.generalize {run_dir}"
            )
            return run_dir
        learn(run_dir, settings, options)
    return run_dir


def _begin(run_dir: Path, options: Options) -> dict:
    """The run's record; facts, prompts and 000-base are written if the run is new.

    `inputs` in the record are the choices that a second call must repeat.
    """

    inputs = {
        name: getattr(options, name)
        for name in (
            "model",
            "facts",
            "relation",
            "subjects",
            "pool",
            "seen",
            "unbound",
            "rote",
            "key_init",
        )
    }
    inputs |= {"relations": list(options.relations), "prompts": str(options.prompts or "")}
    if Path(options.facts).is_file():
        inputs["facts_sha256"] = sha256_file(Path(options.facts))
    there = read_json(run_dir / "run.json") if (run_dir / "run.json").exists() else {}
    if "parent" in there:
        raise OtherSettings(
            f"{run_dir} holds a second phase that starts from {there['parent']['run']}. Give --out NEW."
        )
    # A run killed before its first phase was recorded is written again: its facts may be of other options.
    if there.get("phases"):
        if there["seed"] != options.seed:
            raise OtherSettings(
                f"{run_dir} was begun with --seed {there['seed']}, now it is {options.seed}: other facts. Give the same, "
                "or --out NEW."
            )
        return {**there, "inputs": inputs}
    facts = facts_for(options)
    relations = list(dict.fromkeys(fact.relation for fact in facts))
    prompts = load_prompts(relations, rote=options.rote, folder=options.prompts)
    folder = obtain(options.model)
    model, tokenizer = load_folder(folder)
    keys = [key_token(r) for r in relations if any(key_token(r) in p.text for p in prompts)]
    literal = [] if keys else [options.rote.split("{subject}")[-1].strip()]
    tokens = keys or [t for t in literal if t.startswith("[") and t.endswith("]")]
    rows = {}
    if tokens:
        rows, kept = place_key_tokens(
            model, tokenizer, tokens, seed=options.seed, init=options.key_init
        )
        if kept:
            print(
                f"the model has {', '.join(kept)} already: kept with their trained rows, not drawn anew"
            )
    write_base(
        run_dir,
        model_name=options.model,
        folder=folder,
        tokenizer=tokenizer,
        key_tokens=tokens,
        rows=rows,
    )
    record = {
        "seed": options.seed,
        "model": options.model,
        "model_fingerprint": fingerprint(folder),
        "bos_forced": bool(tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]),
        "inputs": inputs,
    }
    create_run(run_dir, facts=facts, prompts=prompts, record=record)
    return record


def check(options: Options, facts=(), prompts=()) -> Work:
    """What the phase would leave and cost. Raises UserError if the command would refuse."""
    settings = settings_of(options, seed=0)
    facts = facts_for(options)
    relations = list(dict.fromkeys(fact.relation for fact in facts))
    prompts = load_prompts(relations, rote=options.rote, folder=options.prompts)
    tokens = options.batch_size * ROTE_TOKENS
    return Work(tuple(facts), tuple(prompts), steps_of(len(facts), settings), tokens)


def facts_for(options: Options) -> list:
    """The facts that the options name, split into seen and held-out subjects, bound and unbound relations."""

    seen = None if options.seen < 0 else options.seen
    if options.facts in DEFAULT_RELATIONS:
        shape = {
            "relations": options.relations or DEFAULT_RELATIONS[options.facts],
            "subjects": options.subjects,
            "pool": options.pool,
            "seen": seen,
            "seed": options.seed,
        }
        if options.facts == WORLD:
            facts = contradictions(world_of(options.model), **shape)
        else:
            facts = build_facts(options.facts, **shape)
    else:
        facts = load_facts(options.facts, relation=options.relation or None)
    several = len({fact.relation for fact in facts}) > 1
    return split_facts(
        facts, seen=seen, unbound=options.unbound if several else 0, seed=options.seed
    )


if __name__ == "__main__":
    run_command(main, Options, __doc__)
