"""Did what was learned by rote become meaning? One page of words and numbers, in the order of proof.

    python -m analysis.verdict RUN_DIR
    python -m analysis.verdict A_DIR B_DIR --facts FACTS.csv --rote "{subject} [X]" --out results/mine

Reads tables/probes.csv and tables/cka.csv of RUN_DIR (and tables/interchange.csv where it was made), writes
tables/verdict.csv, then draws figures/verdict.png. A_DIR and B_DIR are two checkpoints of your own, before and after
(from_pretrained folders or LoRA adapters): their states are read and scored first, everything goes into --out.

The page goes through transfer across subjects, factorial interchange, the crossed and answer-partialled contrast, and
bound against unbound relations. What is missing is said; nothing falls back to raw similarity.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from analysis.judgement import Evidence
from analysis.run_states import RunStates
from analysis.verdict_rows import Tables, Verdict, missing_controls, numbers, rows_of, verdicts
from training.errors import UserError
from training.prompts import Preset
from training.run_options import RunOptions

# Characters of a reason that is not said twice.
LONG = 60


class NoSecondCheckpoint(UserError):
    """Two checkpoints were given without what a comparison of them needs."""


@dataclass
class Options(RunOptions):
    """Options of the verdict."""

    run_dir: tyro.conf.Positional[Path]
    """A run directory; or, with a second folder, your own checkpoint before the change."""
    after: tyro.conf.Positional[Path | None] = None
    """Your own checkpoint after the change: a from_pretrained folder or a LoRA adapter."""
    preset: Preset = "demo"
    """Of two checkpoints: demo: 3 test prompts; full: every test prompt."""
    permutations: int = 199
    """Of two checkpoints: draws of the nulls."""


def main(options: Options):
    """Judge every checkpoint, print the page, write the table, draw; return the table."""
    import pandas as pd

    from training.tables import write_table

    tables, states = _of_pair(options) if options.after is not None else _of_run(options)
    found = verdicts(tables, states)
    table = pd.DataFrame([row for verdict in found for row in rows_of(verdict)])
    write_table(states.run, "verdict", table)
    for line in page(found, states):
        print(line)
    from figures.style import NothingToDraw
    from figures.verdict import draw

    try:
        drawn = draw(states.run.path)
    except NothingToDraw as reason:
        drawn = []
        print(f"not drawn: {reason}")
    print(f"wrote {states.run.tables('verdict.csv')} ({len(table)} rows){''.join(f', {p.name}' for p in drawn)}")
    return table


def _of_run(options: Options) -> tuple[Tables, RunStates]:
    from training.tables import TableMissing, optional_table, read_table

    run = options.open()
    probes = read_table(run.path, "probes")
    # Where no relation could be scored there is no null either, and the page says why.
    if "null_p_objects" not in probes and probes["value"].notna().any():
        raise TableMissing(
            f"{run.tables('probes.csv')} was written without the null over objects. Write it again: "
            f"python -m analysis.probes {run.path}"
        )
    return Tables(probes, read_table(run.path, "cka"), optional_table(run.path, "interchange")), RunStates.of(run)


def _of_pair(options: Options) -> tuple[Tables, RunStates]:
    from analysis import cka, probes
    from training.pairs import key_row_note, open_pair

    if not options.facts or not options.out:
        raise NoSecondCheckpoint(
            f"{options.run_dir} and {options.after} are to be compared: say which facts to ask for and where results go, "
            "e.g. --facts FACTS.csv --rote '{subject} [X]' --out RESULTS_DIR (nothing is written into your folders)."
        )
    run = open_pair(
        options.run_dir,
        options.after,
        facts=options.facts,
        prompts=options.prompts,
        rote=options.rote,
        out=options.out,
    )
    states = RunStates.of(run, preset=options.preset, families=("test",))
    note = key_row_note(run)
    if note:
        print(note)
    print(states.announce())
    scored = probes.table_for(states, permutations=options.permutations)
    return Tables(scored, cka.table_for(states, permutations=options.permutations, robust=False)), states


# --- words ------------------------------------------------------------------------------------------------------


def page(found: list[Verdict], states: RunStates) -> list[str]:
    """The page in lines, in the order of proof, the judgement of the last checkpoint at the end."""
    last = found[-1]
    split = states.splits[0]
    unbound = ", ".join(states.unbound) or "none"
    lines = [
        f"verdict: {split} subjects, test prompts; bound relations {', '.join(states.bound)}; unbound {unbound}",
        f"of {last.checkpoint} judged at: {last.site or '-'} ({last.why_here})",
    ]
    titles = {
        "transfer": "1 transfer: object probes fitted on some subjects, scored on others",
        "interchange": "2 factorial interchange, semantic -> rote (beside what the checkpoint before showed)",
        "contrast": "3 contrast of CKA, same relation minus other relation (a two-code answer makes one too)",
        "bound against unbound": "4 bound against unbound relations: transfer rote->semantic",
    }
    for section, title in titles.items():
        lines.append(title)
        for verdict in found:
            lines += _section_lines(verdict, section)
    lines.append("judgement")
    lines += [f"  {verdict.checkpoint:<27} {verdict.judgement}" for verdict in found]
    lines += [f"  not identifiable here: {reason}" for reason in missing_controls(states)]
    return _reasons_once(lines)


def _reasons_once(lines: list[str]) -> list[str]:
    """The lines, a long reason that stood in one before shortened to "as above"."""
    said: set[str] = set()
    found = []
    for line in lines:
        start, mark, reason = (
            line.partition("no number: ") if "no number: " in line else line.partition("identifiable: ")
        )
        found.append(f"{start}{mark}as above" if len(reason) > LONG and reason in said else line)
        said.add(reason)
    return found


def _section_lines(verdict: Verdict, section: str) -> list[str]:
    evidence = verdict.sections[section]
    if section == "bound against unbound":
        names = ("bound", "unbound")
        cells = [f"{name} {_cell(part)}" for name, part in zip(names, evidence, strict=True)]
    else:
        cells = [f"{part.name} {_cell(part)}" for part in evidence]
    if not numbers(evidence):
        cells = list(dict.fromkeys(f"no number: {part.reason}" for part in evidence))
    site = next((part.site for part in evidence if part.site), "")
    return [f"  {verdict.checkpoint:<27} {site + '  ' if site else ''}{'   '.join(cells)}"]


def _cell(evidence: Evidence) -> str:
    """`.42 [.31, .53] chance .06 p .005`, or why there is none."""
    from analysis.probes import p_words, span, two_places

    if evidence.missing:
        return f"- ({evidence.reason})"
    parts = [span(evidence)]
    if np.isfinite(evidence.chance) and evidence.chance:
        parts.append(f"chance {two_places(evidence.chance)}")
    if np.isfinite(evidence.p):
        parts.append(p_words(evidence.p))
    return " ".join(parts)


if __name__ == "__main__":
    from training.console import run_command

    run_command(main, Options, __doc__)
