"""Tidy tables of a run: written whole, with seed and commit, sealed, and read back with a check."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from training.base.errors import Damaged, NotFound
from training.base.files import (
    MANIFEST,
    commit,
    read_json,
    seal,
    sha256_file,
    sha256_text,
    verify,
    write_with,
)

# The commands that write a table of another name than theirs.
WRITERS = {
    "probe_controls": "analysis.probes {run}",
    "cka_measures": "analysis.cka {run} --measure rbf_cka",
    "recall_items": "training.recall {run}",
    "recall": "training.recall {run}",
    "damage": "training.damage {run}",
    "reversal": "training.reversal {run}",
    "two_hop": "training.two_hop {run}",
}


class TableMissing(NotFound):
    """A table that has not been written yet."""


def write_table(run, name: str, table) -> Path:
    """Write tables/NAME.csv of a run, adding the columns seed and commit; returns its path."""
    path = run.path / "tables" / f"{name}.csv"
    table = table.assign(seed=run.seed, commit=commit())
    write_with(path, lambda part: table.to_csv(part, index=False))
    seal(
        path.parent,
        [path.name],
        **{_origin_key(name): _origin({c.name: c.folder for c in run.checkpoints}, table)},
    )
    return path


def checkpoint_part(run, checkpoint, name: str, content: Iterable[object], compute: Callable):
    """One checkpoint's rows of table NAME: read if they were computed before from the same content, else computed
    and kept in tables/.parts, so that nothing is done twice.

    content: what the rows depend on besides the weights (facts, prompts, options), told apart by their repr.
    compute: () -> DataFrame.
    """
    import pandas as pd

    key = sha256_text("\n".join([checkpoint.fingerprint, *map(repr, content)]))[:24]
    part = run.path / "tables" / ".parts" / f"{name}-{key}.csv"
    if not part.exists():
        table = compute()
        write_with(part, lambda path: table.to_csv(path, index=False))
        seal(part.parent, [part.name])
    table = pd.read_csv(verify(part), keep_default_na=False, na_values=[""])
    return table.assign(checkpoint=checkpoint.name, phase=checkpoint.phase)


def read_table(run_dir: Path, name: str):
    """Read tables/NAME.csv. Raises TableMissing (with the command that writes it), Damaged,
    Damaged (its seed or checkpoints are not this run's, by name or by what they were trained to)."""
    import pandas as pd

    path = Path(run_dir) / "tables" / f"{name}.csv"
    if not path.exists():
        # A folder of results alone does not say what they are of.
        own = (Path(run_dir) / "run.json").exists()
        named = run_dir if own else f"CHECKPOINTS --facts ... --rote ... --out {run_dir}"
        command = WRITERS.get(name, f"analysis.{name.split('_')[0]} {{run}}").format(run=named)
        raise TableMissing(f"{path} is not there. Write it: python -m {command}")
    table = pd.read_csv(verify(path), keep_default_na=False, na_values=[""])
    record = Path(run_dir) / "run.json"
    if record.exists() and "seed" in table and len(table):
        described = read_json(record)
        # A summary over several runs names all of theirs.
        seeds = set(described.get("seeds", [described.get("seed")]))
        if set(table["seed"]) != seeds:
            raise Damaged(
                f"{path} is of seed {sorted(set(table['seed']))}, the run of seed {sorted(seeds, key=str)}. Delete "
                f"the table and write it again."
            )
        folder = Path(run_dir) / "checkpoints"
        names = (
            {p.name for p in folder.iterdir()}
            if folder.is_dir()
            else set(table.get("checkpoint", []))
        )
        strange = set(table.get("checkpoint", [])) - names
        if strange:
            raise Damaged(
                f"{path} names checkpoints this run has not ({', '.join(sorted(strange)[:2])}). "
                f"Delete the table and write it again."
            )
        manifest = path.parent / MANIFEST
        origin = read_json(manifest).get(_origin_key(name)) if manifest.exists() else None
        if origin and folder.is_dir() and origin != _origin({n: folder / n for n in names}, table):
            raise Damaged(
                f"{path} was computed from other checkpoints of the same names. Delete the table and write it again."
            )
    return table


def optional_table(run_dir: Path, name: str):
    """`read_table`, or None if the table was not written."""
    try:
        return read_table(run_dir, name)
    except TableMissing:
        return None


def _origin_key(name: str) -> str:
    """Under which the manifest of a table's folder says what the table was computed from."""
    return f"{name}.csv origin"


def _origin(folders: Mapping[str, Path], table) -> str:
    """What stands for the checkpoints that a table names: the sha256 of their stage.json; "" where one has none."""
    named = sorted(set(table.get("checkpoint", [])))
    stages = [folders[name] / "stage.json" for name in named if name in folders]
    if not named or len(stages) < len(named) or not all(stage.exists() for stage in stages):
        return ""
    return sha256_text(" ".join(sha256_file(stage) for stage in stages))


def pick(table, /, **wanted):
    """Rows whose columns have these values (a tuple: any of them); a column the table lacks asks nothing."""
    for column, value in wanted.items():
        if column in table:
            table = table[table[column].isin(value if isinstance(value, tuple) else (value,))]
    return table


def headline_split(table) -> str:
    """held-out where the facts were split, else all."""
    return "held-out" if "held-out" in set(table["split"]) else "all"


def at_largest_site(rows):
    """Of rows of one kind those at the site that is largest at the last checkpoint; none if it has no value there.

    Sites from `decodable_layer` on, where the table has one, are not looked at. The height at a site that was looked
    for is too high by chance; its differences between checkpoints or conditions are not.
    """
    if "decodable_layer" in rows:
        rows = rows[~(rows.layer >= rows.decodable_layer)]
    last = (
        rows[rows.checkpoint == rows.checkpoint.iloc[-1]]
        if "checkpoint" in rows and len(rows)
        else rows
    )
    if not last.value.notna().any():
        return rows.iloc[:0]
    return rows[rows.site == last.loc[last.value.idxmax(), "site"]]
