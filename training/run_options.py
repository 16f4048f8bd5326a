"""What every command on a run directory is given, and the run that it means."""

from dataclasses import dataclass
from pathlib import Path

import tyro


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
        """The run. Raises NotARun with what was found and what is missing."""
        from training.runs import open_run

        return open_run(self.run_dir, facts=self.facts, prompts=self.prompts, rote=self.rote, out=self.out)
