"""The state of a training phase between two processes: safetensors and JSON, no pickle.

There are two generations of it, so that one is whole whenever the process is killed.
"""

import base64
import contextlib
import shutil
from pathlib import Path

from training.base.errors import UserError
from training.base.files import publish_folder, read_json, verify, write_json

MOMENTS = ("exp_avg", "exp_avg_sq")


def save_resume_state(folder: Path, model, optimizer, *, step: int) -> None:
    """Write float32 weights, both AdamW moments and the step; keep the last state as a spare."""
    import torch
    from safetensors.torch import save_file

    def fill(part: Path) -> None:
        named, state = list(model.named_parameters()), optimizer.state
        tensors = {f"weight.{n}": p.detach() for n, p in named}
        tensors |= {f"{m}.{n}": state[p][m] for n, p in named if p in state for m in MOMENTS}
        tensors = {name: tensor.float().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(tensors, part / "state.safetensors")
        rng = {"cpu": _as_text(torch.get_rng_state())}
        if torch.cuda.is_available():
            rng["cuda"] = [_as_text(state) for state in torch.cuda.get_rng_state_all()]
        write_json(part / "state.json", {"step": step, "rng": rng})

    newest, older = folder / "newest", folder / "older"
    if (newest / "state.json").exists():
        shutil.rmtree(older, ignore_errors=True)
        newest.rename(older)
    publish_folder(newest, fill)


def load_resume_state(folder: Path, model, optimizer) -> int:
    """Restore the newest whole state into model and optimizer; its step, or 0 if there is none."""
    for generation in (folder / "newest", folder / "older"):
        if (generation / "manifest.json").exists():
            with contextlib.suppress(UserError):
                for name in ("state.safetensors", "state.json"):
                    verify(generation / name)
                return _restore(generation, model, optimizer)
    return 0


def _restore(generation: Path, model, optimizer) -> int:
    import torch
    from safetensors import safe_open

    def as_rng(text: str):
        return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)

    state = read_json(generation / "state.json")
    with safe_open(generation / "state.safetensors", framework="pt") as tensors, torch.no_grad():
        names = set(tensors.keys())
        for name, p in model.named_parameters():
            p.copy_(tensors.get_tensor(f"weight.{name}"))
            if f"exp_avg.{name}" in names:
                device = p.device if p.is_cuda else "cpu"
                optimizer.state[p] = {
                    "step": torch.tensor(float(state["step"]), device=device),
                    **{m: tensors.get_tensor(f"{m}.{name}").to(p) for m in MOMENTS},
                }
    torch.set_rng_state(as_rng(state["rng"]["cpu"]))
    if "cuda" in state["rng"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([as_rng(text) for text in state["rng"]["cuda"]])
    return state["step"]


def _as_text(rng) -> str:
    return base64.b64encode(rng.numpy().tobytes()).decode()
