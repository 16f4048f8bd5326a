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
from typing import Literal

from training.errors import UserError
from training.models import KeyInit
from training.trainable import Mode

WORLD = "world"
DEFAULT_RELATIONS = {
    "people": ("mother", "aunt", "home_city", "profession"),
    "fiction": ("author", "capital", "educated_at", "genre", "mother"),
}
DEFAULT_RELATIONS[WORLD] = DEFAULT_RELATIONS["kin"] = DEFAULT_RELATIONS["people"]
PHASE = "memorize"
# What a run stands for that was recorded before the option existed.
BEFORE = {"train": "all"}


@dataclass(kw_only=True)
class RoteOptions:
    """How facts are memorised by rote, in phase 1 and after (`training.extend`)."""

    epochs: int = 30
    """Passes over the facts."""
    batch_size: int = 16
    """Facts a step, over all processes."""
    facts_per_sequence: int = 4
    """Facts written one after the other in a training sequence, so that most names stand in mid-sentence, as they do
    in semantic prompts; 1: each alone, as in the paper."""
    learning_rate: float = 1.5e-4
    """Peak learning rate (warm-up, then cosine to zero)."""
    loss: Literal["all", "object"] = "object"
    """Next-token loss on all tokens or on the object and its stop."""
    train: Mode = "all"
    """Weights to train: all; embeddings: the input and output matrices; attention: the projections of attention; lora:
    rank 8 beside every linear layer of the blocks, merged into the checkpoints.
    The key tokens' embedding rows are always trained."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """Arithmetic of training; auto: bfloat16 autocast where the processor has it, float32 weights always."""
    save_epochs: tuple[int, ...] = ()
    """Epochs to save besides the last."""
    resume_minutes: float = 4.0
    """Minutes between two writings of the resume state."""


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
    from training.runs import begin_phase, first_process_first, locked, refuse_foreign_folder

    if options.out is None:
        raise UserError("no run directory was given. Say where it goes: --out runs/NAME")
    run_dir = Path(options.out).expanduser()
    settings = settings_of(options, seed=options.order_seed if options.order_seed >= 0 else options.seed)
    refuse_foreign_folder(run_dir)
    with locked(run_dir):
        with first_process_first():
            record = _begin(run_dir, options)
            chosen = {**asdict(settings), "save_epochs": list(options.save_epochs), **record["inputs"]}
            unfinished = begin_phase(run_dir, "memorize", chosen, before=BEFORE)
        if not unfinished:
            print(f"memorize is finished in {run_dir}    next: python -m training.generalize {run_dir}")
            return run_dir
        learn(run_dir, settings, options)
    return run_dir


def learn(run_dir: Path, settings, options: RoteOptions, *, then: str = "training.generalize") -> None:
    """Train a begun phase on the run's rote facts from its 000-base to the end, and say what came of it.

    settings: `TrainingSettings`; then: the command that comes next.
    """
    from training.checkpoints import load_checkpoint, read_checkpoint
    from training.examples import context_length, encode_all
    from training.selection import rote_facts
    from training.trainer import finish, train

    base = read_checkpoint(run_dir / "checkpoints" / "000-base")
    model, tokenizer = load_checkpoint(base)
    facts, rote = rote_facts(run_dir)
    examples = encode_all(tokenizer, facts, rote, limit=context_length(model.config))
    print(
        f"memorize: {len(examples)} facts of {len(rote)} relations, {settings.epochs} epochs, "
        f"batch {settings.batch_size} ({settings.facts_per_sequence} a sequence), "
        f"learning rate {settings.learning_rate:g}{'' if settings.train == 'all' else f', train {settings.train}'}"
    )
    train(
        model,
        tokenizer,
        examples,
        settings,
        run_dir,
        phase=PHASE,
        parent=base.name,
        save_epochs=options.save_epochs,
        key_tokens=base.key_tokens,
        resume_minutes=options.resume_minutes,
    )
    last, metrics = finish(run_dir, PHASE)
    print(
        f"recalled while training, last epoch: {metrics['train_recall']:.2f} of {len(examples)} facts\n"
        f"wrote {last.folder}    next: python -m {then} {run_dir}"
    )


def settings_of(options: RoteOptions, *, seed: int):
    """The training settings of rote learning. Raises UserError for one out of range."""
    from training.trainer import TrainingSettings

    return TrainingSettings(
        epochs=options.epochs,
        batch_size=options.batch_size,
        facts_per_sequence=options.facts_per_sequence,
        loss=options.loss,
        learning_rate=options.learning_rate,
        precision=options.precision,
        seed=seed,
        train=options.train,
    )


def _begin(run_dir: Path, options: Options) -> dict:
    """The run's record; facts, prompts and 000-base are written if the run is new.

    `inputs` in the record are the choices that a second call must repeat.
    """
    from training.checkpoints import write_base
    from training.files import read_json, sha256_file
    from training.models import fingerprint, load_folder, place_key_tokens, resolve
    from training.prompts import key_token, load_prompts
    from training.runs import OtherSettings, create_run

    inputs = {
        name: getattr(options, name)
        for name in ("model", "facts", "relation", "subjects", "pool", "seen", "unbound", "rote", "key_init")
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
    folder = resolve(options.model)
    model, tokenizer = load_folder(folder)
    keys = [key_token(r) for r in relations if any(key_token(r) in p.text for p in prompts)]
    literal = [] if keys else [options.rote.split("{subject}")[-1].strip()]
    tokens = keys or [t for t in literal if t.startswith("[") and t.endswith("]")]
    rows = {}
    if tokens:
        rows, kept = place_key_tokens(model, tokenizer, tokens, seed=options.seed, init=options.key_init)
        if kept:
            print(f"the model has {', '.join(kept)} already: kept with their trained rows, not drawn anew")
    write_base(run_dir, model_name=options.model, folder=folder, tokenizer=tokenizer, key_tokens=tokens, rows=rows)
    record = {
        "seed": options.seed,
        "model": options.model,
        "model_fingerprint": fingerprint(folder),
        "bos_forced": bool(tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]),
        "inputs": inputs,
    }
    create_run(run_dir, facts=facts, prompts=prompts, record=record)
    return record


def facts_for(options: Options) -> list:
    """The facts that the options name, split into seen and held-out subjects, bound and unbound relations."""
    from training.facts import build_facts, load_facts, split_facts

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
            from training.organism import world_of
            from training.world import contradictions

            facts = contradictions(world_of(options.model), **shape)
        else:
            facts = build_facts(options.facts, **shape)
    else:
        facts = load_facts(options.facts, relation=options.relation or None)
    several = len({fact.relation for fact in facts}) > 1
    return split_facts(facts, seen=seen, unbound=options.unbound if several else 0, seed=options.seed)


if __name__ == "__main__":
    from training.console import run_command

    run_command(main, Options, __doc__)
