"""Key tokens: new special tokens, one per relation, and the embedding rows that they start from."""

import hashlib
from collections.abc import Sequence
from typing import Literal

KeyInit = Literal["mean", "random"]
# Of the rows' own spread. At 1% sibling relations (mother, aunt) stay confused for epochs.
MEAN_SPREAD = 0.1


def add_key_tokens(tokenizer, tokens: Sequence[str]) -> list[int]:
    """Add key tokens that a tokenizer lacks as special tokens and return their ids.

    `lstrip` makes the token swallow the space before it: without it "Gene Finley [X]" leaves a
    stray space token between name and key.
    """
    from transformers import AddedToken

    shape = {"lstrip": True, "rstrip": False, "normalized": False, "special": True}
    added = {"additional_special_tokens": [AddedToken(token, **shape) for token in tokens]}
    tokenizer.add_special_tokens(added, replace_extra_special_tokens=False)
    return tokenizer.convert_tokens_to_ids(list(tokens))


def place_key_tokens(
    model, tokenizer, tokens: Sequence[str], *, seed: int, init: KeyInit
) -> tuple[dict, list[str]]:
    """Add the key tokens that a tokenizer lacks: (starting rows of all, the tokens it had).

    A token that is there, because phase 1 made it, keeps the model's row, with whatever it has come
    to mean; the others are drawn by `initial_key_rows`.
    """
    there = [token for token in tokens if token in tokenizer.get_vocab()]
    add_key_tokens(tokenizer, [token for token in tokens if token not in there])
    rows = initial_key_rows(model, tokens, seed=seed, init=init)
    places, ids = [tokens.index(token) for token in there], tokenizer.convert_tokens_to_ids(there)
    for side, matrix in embedding_matrices(model).items():
        rows[side][places] = matrix[ids].detach().float()
    return rows, there


def initial_key_rows(model, tokens: Sequence[str], *, seed: int, init: KeyInit = "mean") -> dict:
    """Embedding rows that the key tokens start from: {"input": (k, d), "output": (k, d) if untied}.

    Normal around the mean of the model's rows, feature by feature, with their standard deviation
    ("random": a token like any other) or MEAN_SPREAD of it ("mean": a token that says next to
    nothing, so a fact is stored close to the subject's name). Draws depend on seed and name alone.
    """
    import torch

    scale = {"random": 1.0, "mean": MEAN_SPREAD}[init]
    result = {}
    for side, matrix in embedding_matrices(model).items():
        weight = matrix.detach().float()
        mean, spread = weight.mean(0), weight.std(0)
        draws = []
        for token in tokens:
            word = hashlib.sha256(f"{seed} {side} {token}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(word[:7], "big"))
            draws.append(mean + scale * spread * torch.randn(weight.shape[1], generator=generator))
        result[side] = torch.stack(draws)
    return result


def set_key_rows(model, ids: Sequence[int], rows: dict) -> None:
    """Write key-token rows into a model, growing its embeddings where the ids lie beyond them."""
    import torch

    needed = max(ids, default=0) + 1
    if needed > len(model.get_input_embeddings().weight):
        model.resize_token_embeddings(needed, mean_resizing=False)
    matrices = embedding_matrices(model)
    with torch.no_grad():
        for side, values in rows.items():
            matrices[side][list(ids)] = values.to(model.dtype)


def embedding_matrices(model) -> dict:
    """The weights of the embeddings: {"input": (v, d), "output": (v, d) if untied}."""
    matrices = {"input": model.get_input_embeddings().weight}
    output = model.get_output_embeddings()
    if output is not None and output.weight is not matrices["input"]:
        matrices["output"] = output.weight
    return matrices
