"""Tidy tables of a run: written whole with seed and commit, sealed, and checked when read."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from training.base import files
from training.base.errors import Damaged, NotFound
from training.base.provenance import commit
from training.weights.loading import on_gpu

# The commands whose tables have other names than `analysis.NAME`.
WRITERS = {
    "probe_controls": "analysis.probes {run}",
    "cka_measures": "analysis.cka {run} --measure rbf_cka",
    "recall_items": "training.recall {run}",
    **{name: f"training.{name} {{run}}" for name in ("recall", "damage", "reversal", "two_hop")},
}


class TableMissing(NotFound):
    """A table that has not been written yet."""


def write_table(run, name: str, table) -> Path:
    """Write tables/NAME.csv of a run, adding the columns seed and commit; returns its path."""
    path = run.path / "tables" / f"{name}.csv"
    table = table.assign(seed=run.seed, commit=commit())
    files.write_with(path, lambda part: table.to_csv(part, index=False))
    origin = _origin({c.name: c.folder for c in run.checkpoints}, table)
    files.seal(path.parent, [path.name], **{f"{name}.csv origin": origin})
    return path


def checkpoint_part(run, checkpoint, name: str, content: Iterable[object], compute: Callable):
    """One checkpoint's rows of table NAME, computed once and kept in tables/.parts.

    content: what the rows depend on apart from the weights (facts, prompts, options), told apart by
    repr. compute: () -> DataFrame.
    """
    key = files.sha256_text("\n".join([checkpoint.fingerprint, *map(repr, content)]))[:24]
    part = run.path / "tables" / ".parts" / f"{name}-{key}.csv"
    if not part.exists():
        table = compute()
        files.write_with(part, lambda path: table.to_csv(path, index=False))
        files.seal(part.parent, [part.name])
    return _read_csv(part).assign(checkpoint=checkpoint.name, phase=checkpoint.phase)


def checkpoint_table(run, name: str, content: list, rows_of: Callable, columns: Sequence[str]):
    """The rows of every checkpoint for table NAME; it is loaded only if its rows were not kept.

    content: see `checkpoint_part`. rows_of: (model, tokenizer) -> rows as dicts, to which the stage
    of the checkpoint is added. columns: those that come right after the stage.
    """
    import pandas as pd

    def compute(checkpoint):
        model, tokenizer = checkpoint.load()
        return pd.DataFrame(rows_of(on_gpu(model), tokenizer))

    parts = [checkpoint_part(run, c, name, content, partial(compute, c)) for c in run.checkpoints]
    table = with_stage(run, pd.concat(parts, ignore_index=True))
    lead = ("checkpoint", "phase", "epoch", "step", *columns)
    return table[[*lead, *(c for c in table if c not in lead)]]


def with_stage(run, table):
    """The table with the columns epoch and step of its checkpoints."""
    when = {k: {c.name: getattr(c, k) for c in run.checkpoints} for k in ("epoch", "step")}
    return table.assign(**{k: [of[c] for c in table.checkpoint] for k, of in when.items()})


def publish_table(run, name: str, table, lines: Iterable[str], *, then: str = ""):
    """Write tables/NAME.csv, print it and where it is; returns it. then: the module to run next."""
    path = write_table(run, name, table)
    print("\n".join(lines))
    following = f"    next: python -m {then} {run.argument}" if then else ""
    print(f"wrote {path} ({len(table)} rows){following}")
    return table


def read_table(run_dir: Path, name: str):
    """tables/NAME.csv as a DataFrame.

    Raises TableMissing with the command that writes it, and Damaged if the file has changed or its
    seed or checkpoints (by name, and by what they were trained to) are not those of the run.
    """
    path, record = Path(run_dir) / "tables" / f"{name}.csv", Path(run_dir) / "run.json"
    if not path.exists():
        # A folder of results alone does not say what they are of.
        named = f"CHECKPOINTS --facts ... --rote ... --out {run_dir}"
        command = WRITERS.get(name, f"analysis.{name.split('_')[0]} {{run}}")
        command = command.format(run=run_dir if record.exists() else named)
        raise TableMissing(f"{path} is not there. Write it: python -m {command}")
    table = _read_csv(path)
    if record.exists() and "seed" in table and len(table):
        problem = _foreign(Path(run_dir), name, table, files.read_json(record))
        if problem:
            raise Damaged(f"{path} {problem}. Delete the table and write it again.")
    return table


def optional_table(run_dir: Path, name: str):
    """`read_table`, or None if the table was not written."""
    try:
        return read_table(run_dir, name)
    except TableMissing:
        return None


def _read_csv(path: Path):
    import pandas as pd

    return pd.read_csv(files.verify(path), keep_default_na=False, na_values=[""])


def _foreign(run_dir: Path, name: str, table, record: dict) -> str:
    """Why a table is not one of this run, in words; "" if it is."""
    # A summary over several runs names the seeds of all.
    there, seeds = set(table["seed"]), set(record.get("seeds", [record.get("seed")]))
    if there != seeds:
        return f"is of seed {sorted(there)}, the run of seed {sorted(seeds, key=str)}"
    if not (run_dir / "checkpoints").is_dir():
        return ""
    folders = {p.name: p for p in (run_dir / "checkpoints").iterdir()}
    strange = sorted(set(table.get("checkpoint", [])) - folders.keys())
    if strange:
        return f"names checkpoints that this run does not have ({', '.join(strange[:2])})"
    origin = files.manifest(run_dir / "tables").get(f"{name}.csv origin")
    if origin and origin != _origin(folders, table):
        return "was computed from other checkpoints of the same names"
    return ""


def _origin(folders: dict[str, Path], table) -> str:
    """sha256 over the stage.json of the checkpoints that a table names; "" if one is missing."""
    named = sorted(set(table.get("checkpoint", [])))
    stages = [folders.get(name, Path()) / "stage.json" for name in named]
    if not named or not all(stage.exists() for stage in stages):
        return ""
    return files.sha256_text(" ".join(map(files.sha256_file, stages)))


def pick(table, /, **wanted):
    """Rows whose columns have these values (a tuple: any of them); missing columns are ignored."""
    for column, value in wanted.items():
        if column in table:
            table = table[table[column].isin(value if isinstance(value, tuple) else (value,))]
    return table


def headline_split(table) -> str:
    """held-out where the facts were split, else all."""
    return "held-out" if "held-out" in set(table["split"]) else "all"


def at_largest_site(rows):
    """The rows of one kind at the site whose value is largest at the last checkpoint.

    Empty if it has no value there. Sites from `decodable_layer` on, where the table has that
    column, are left out. The height at a site chosen this way is biased upwards; differences there
    between checkpoints or conditions are not.
    """
    if "decodable_layer" in rows:
        rows = rows[~(rows.layer >= rows.decodable_layer)]
    last = rows
    if "checkpoint" in rows and len(rows):
        last = rows[rows.checkpoint == rows.checkpoint.iloc[-1]]
    if not last.value.notna().any():
        return rows.iloc[:0]
    return rows[rows.site == last.loc[last.value.idxmax(), "site"]]
