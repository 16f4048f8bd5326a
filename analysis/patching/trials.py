"""Trials of interchange and steering: who is patched into whom, and which object the model then answers.

A source prompt about (s', r') is patched into a target prompt about (s, r), s' != s, r' != r, all four objects
distinct. The answer is the candidate that greedy decoding reaches when it may only say candidates: the objects
of both relations' pools, compared token by token until one is left. A state that is patched late settles the
first token only; where objects begin alike, what follows is the target's own.

Relation vectors: does the subject-averaged key-token state of a relation ask for it, on subjects it never saw?

Averaged over subjects that are not scored, the state at the key token of r minus that at the key token of q is
added to the last token of a prompt about (s, q), and minus that of bare names to a bare name, "Gene Finley"
(Todd et al. 2024, arXiv:2310.15213; difference of means as in Rimsky et al. 2024, arXiv:2312.06681). Beside it: the
same with a third relation w in place of r, and a random direction of the same length.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.measures.checks import NotIdentifiable
from analysis.patching.rows import VECTORS
from probing.extraction import Encoded, extract, tokens_at
from probing.extraction import encode as encode_prompts
from probing.patching import changed_logits
from training.base.console import progress
from training.base.errors import BadInput
from training.data.fact_files import Fact
from training.data.prompts import STOP_WORDS, Prompt
from training.data.sequences import encode, prompt_ids

Array = np.ndarray


POSITIONS = ("last", "subject_last", "relation_last")


@dataclass(frozen=True)
class Pair:
    """Source (s', r') and target (s, r). group: the two subjects, who are in no other group's pairs."""

    group: int
    source_subject: str
    source_relation: str
    target_subject: str
    target_relation: str


@dataclass(frozen=True)
class Trial:
    """One target prompt to be changed. outcomes: label -> the object whose answer it names, all distinct.

    side: "bound" or "unbound", of the relation that is moved. source: prompt and subject whose state is taken;
    None where a vector is added instead.
    """

    side: str
    group: int
    prompt: Prompt
    subject: str
    outcomes: Mapping[str, str]
    candidates: tuple[str, ...]
    source: tuple[Prompt, str] | None = None

    @property
    def text(self) -> str:
        """The target prompt."""
        return self.prompt.render(self.subject)

    def label(self, answer: str) -> str:
        """What an answered candidate says that was moved; "other" for one that is no outcome's object."""
        return next((label for label, obj in self.outcomes.items() if obj == answer), "other")


def choose_pairs(
    objects: Mapping[tuple[str, str], str],
    subjects: Sequence[str],
    source_relations: Sequence[str],
    target_relations: Sequence[str],
    count: int,
    seed: int = 0,
) -> list[Pair]:
    """Up to `count` pairs with four distinct objects, spread evenly over twos of subjects and over relations.

    objects: (subject, relation) -> object. Subjects are cut into twos, so that twos are independent of each
    other: the pairs of a two have one of its subjects as source and the other as target, by turns. Raises
    NotIdentifiable where there is no such pair.
    """
    rng = np.random.default_rng(seed)
    shuffled = [subjects[i] for i in rng.permutation(len(subjects))]
    twos = list(zip(shuffled[::2], shuffled[1::2], strict=False))
    ways = [(a, b) for a in source_relations for b in target_relations if a != b]
    ways = [ways[i] for i in rng.permutation(len(ways))]
    used: Counter = Counter()
    pairs: list[Pair] = []
    for turn in range(2 * len(ways)):
        for group, two in enumerate(twos):
            source, target = two if turn % 2 == 0 else two[::-1]
            open_ways = [
                way
                for way in ways
                if (pair := Pair(group, source, way[0], target, way[1])) not in pairs
                and distinct(pair, objects)
            ]
            if open_ways and len(pairs) < count:
                way = min(open_ways, key=lambda w: used[w])
                used[way] += 1
                pairs.append(Pair(group, source, way[0], target, way[1]))
        if len(pairs) >= count:
            break
    if not pairs:
        raise NotIdentifiable(
            f"not identifiable: among {len(subjects)} subjects and the relations "
            f"{', '.join(dict.fromkeys((*source_relations, *target_relations))) or 'none'} no two subjects have two "
            "relations each with four distinct objects; interchange needs the same subjects in several relations"
        )
    return pairs


def distinct(pair: Pair, objects: Mapping[tuple[str, str], str]) -> bool:
    """Whether the four facts of a pair exist and their objects all differ."""
    return len(set(crossed_objects(pair, objects).values()) - {None}) == 4


def crossed_objects(pair: Pair, objects: Mapping[tuple[str, str], str]) -> dict[str, str | None]:
    """The object of each outcome of a pair."""
    return {
        "nothing": objects.get((pair.target_subject, pair.target_relation)),
        "relation": objects.get((pair.target_subject, pair.source_relation)),
        "subject": objects.get((pair.source_subject, pair.target_relation)),
        "answer": objects.get((pair.source_subject, pair.source_relation)),
    }


def union(*pools: Sequence[str]) -> tuple[str, ...]:
    """The candidates of several relations, each once."""
    return tuple(dict.fromkeys(candidate for pool in pools for candidate in pool))


def positions_of(tokenizer: Any, asked: Sequence[tuple[Prompt, str]], position: str) -> list[int]:
    """The token index of one of POSITIONS in each prompt about a subject.

    relation_last: of a rote prompt its key token; of any other the last token of its last content word outside
    the subject (no STOP_WORDS), which names the relation or ends the phrase that does; without one the last.
    """

    texts = [prompt.render(subject) for prompt, subject in asked]
    if position == "relation_last":
        return tokens_at(
            tokenizer, texts, [_relation_character(prompt, subject) for prompt, subject in asked]
        )
    subjects = [subject for _, subject in asked] if position == "subject_last" else None
    return encode_prompts(tokenizer, texts, positions=position, subjects=subjects).positions


def _relation_character(prompt: Prompt, subject: str) -> int:
    """Where the text that names the relation ends in the rendered prompt."""
    before, after = prompt.text.split("{subject}")
    shift = len(before) + len(subject)
    if prompt.family == "rote":
        return shift + len(after.rstrip()) - 1 if after.strip() else len(before.rstrip()) - 1
    ends = [
        start + match.end() - 1
        for start, part in ((0, before), (shift, after))
        for match in re.finditer(r"[^\W_]+", re.sub(r"(?<=['’])s\b", " ", part))
        if match.group().lower() not in STOP_WORDS
    ]
    return ends[-1] if ends else len(prompt.render(subject)) - 1


Forward = Callable[[list[int], list[tuple[int, ...]]], Iterator[tuple[list[int], Any]]]


def constrained_answers(
    forward: Forward,
    options: Sequence[Sequence[tuple[int, ...]]],
    *,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[list[int], list[bool]]:
    """Per row the candidate that greedy decoding over its candidates' tokens reaches, and whether it was free.

    forward(rows, said): yields (indices into rows, logits (k, vocabulary)) of those rows after the tokens `said`.
    options: of each row, every candidate's tokens with a stop. A row goes on until one candidate is left. Free:
    at each step the model's own greedy token was one that a candidate says. Raises BadInput.
    """
    if any(len(set(row)) < len(row) for row in options):
        raise BadInput("two candidates have the same tokens; name the objects differently")
    left = [list(range(len(row))) for row in options]
    said: list[tuple[int, ...]] = [()] * len(options)
    free = [True] * len(options)
    rows = list(range(len(options)))
    while rows:
        for places, logits in forward(rows, [said[row] for row in rows]):
            for place, scores, top in zip(places, logits, logits.argmax(-1).tolist(), strict=True):
                row = rows[place]
                step = len(said[row])
                tokens = sorted({options[row][i][step] for i in left[row]})
                token = tokens[int(scores[tokens].argmax())]
                left[row] = [i for i in left[row] if options[row][i][step] == token]
                said[row] += (token,)
                free[row] &= top in tokens
            progress(len(places))
        rows = [row for row in rows if len(left[row]) > 1]
    return [row[0] for row in left], free


def changed_answers(
    model: Any,
    tokenizer: Any,
    trials: Sequence[Trial],
    positions: Sequence[int],
    vectors: Any,
    sites: Sequence[str],
    *,
    add: bool = False,
    batch_size: int = 64,
) -> tuple[Array, Array]:
    """What is answered when trial i's state at `positions[i]` and each site becomes, or is added, its vector.

    vectors: (n_trials, n_sites, d). Returns the trial's labels (n_trials, n_sites) and
    whether each was the model's free answer, (n_trials, n_sites) bool. One site is changed at a time.
    """

    prompts = [prompt_ids(tokenizer, trial.text) for trial in trials]
    options = [
        [
            encode(
                tokenizer, Fact(trial.subject, trial.prompt.relation, obj, (obj,)), trial.prompt
            ).object_ids
            for obj in trial.candidates
        ]
        for trial in trials
    ]
    places = [(t, s) for t in range(len(trials)) for s in range(len(sites))]

    def forward(rows: list[int], said: list[tuple[int, ...]]) -> Iterator[tuple[list[int], Any]]:
        return changed_logits(
            model,
            tokenizer,
            [[*prompts[places[row][0]], *tokens] for row, tokens in zip(rows, said, strict=True)],
            [positions[places[row][0]] for row in rows],
            [sites[places[row][1]] for row in rows],
            vectors.flatten(0, 1)[rows],
            add=add,
            batch_size=batch_size,
            progress=False,
        )

    with progress(total=len(places), label="patches") as bar:
        chosen, free = constrained_answers(
            forward, [options[t] for t, _ in places], progress=bar.update
        )
    labels = [
        trials[t].label(trials[t].candidates[answer])
        for (t, _), answer in zip(places, chosen, strict=True)
    ]
    shape = (len(trials), len(sites))
    return np.array(labels, dtype=object).reshape(shape), np.array(free).reshape(shape)


def interchange(
    model: Any,
    tokenizer: Any,
    trials: Sequence[Trial],
    sites: Sequence[str],
    *,
    batch_size: int = 64,
) -> Iterator[tuple[str, Array, Array]]:
    """Yield (position, labels, free) of patching each trial's source into its target, for each of POSITIONS.

    labels, free: (n_trials, n_sites), as in `changed_answers`. Positions that are the same token in a trial are
    patched once.
    """
    import torch

    sources = [trial.source for trial in trials]
    taken = {p: positions_of(tokenizer, sources, p) for p in POSITIONS}
    into = {
        p: positions_of(tokenizer, [(t.prompt, t.subject) for t in trials], p) for p in POSITIONS
    }
    jobs = list(
        dict.fromkeys((t, taken[p][t], into[p][t]) for p in POSITIONS for t in range(len(trials)))
    )
    ids = [prompt_ids(tokenizer, prompt.render(subject)) for prompt, subject in sources]
    encoded = Encoded([ids[t] for t, _, _ in jobs], [place for _, place, _ in jobs])
    states = extract(model, tokenizer, encoded, sites=sites, batch_size=batch_size, progress=False)
    labels, free = changed_answers(
        model,
        tokenizer,
        [trials[t] for t, _, _ in jobs],
        [place for _, _, place in jobs],
        torch.as_tensor(states),
        sites,
        batch_size=batch_size,
    )
    for position in POSITIONS:
        rows = [jobs.index((t, taken[position][t], into[position][t])) for t in range(len(trials))]
        yield position, labels[rows], free[rows]


def unchanged(
    model: Any, tokenizer: Any, trials: Sequence[Trial], *, batch_size: int = 64
) -> tuple[Array, Array]:
    """What is answered without a change: labels and free, (n_trials, 1)."""
    import torch

    width = model.get_input_embeddings().weight.shape[-1]
    positions = positions_of(tokenizer, [(t.prompt, t.subject) for t in trials], "last")
    nothing = torch.zeros((len(trials), 1, width))
    return changed_answers(
        model, tokenizer, trials, positions, nothing, ["embed"], add=True, batch_size=batch_size
    )


BARE = "bare"


@dataclass(frozen=True)
class Steering:
    """A subject who is asked q, moved to r; w is the wrong relation. All three objects differ."""

    group: int
    subject: str
    asked: str
    relation: str
    wrong: str


def choose_steering(
    objects: Mapping[tuple[str, str], str],
    subjects: Sequence[str],
    relations: Sequence[str],
    count: int,
    seed: int = 0,
) -> list[Steering]:
    """Up to `count` subjects, each with three relations of distinct objects; subjects come again only where
    `count` is more than there are. Empty where no subject has three such relations."""
    rng = np.random.default_rng([seed, 1])
    shuffled = [subjects[i] for i in rng.permutation(len(subjects))]
    ways = [
        (q, r, w) for q in relations for r in relations for w in relations if len({q, r, w}) == 3
    ]
    ways = [ways[i] for i in rng.permutation(len(ways))]
    used = dict.fromkeys(ways, 0)
    chosen: list[Steering] = []
    for _ in range(-(-count // max(1, len(shuffled)))):
        for group, subject in enumerate(shuffled):
            there = [
                way
                for way in ways
                if Steering(group, subject, *way) not in chosen
                and len({objects.get((subject, relation)) for relation in way} - {None}) == 3
            ]
            if there and len(chosen) < count:
                way = min(there, key=used.__getitem__)
                used[way] += 1
                chosen.append(Steering(group, subject, *way))
    return chosen


def steering_trial(
    steering: Steering,
    prompt: Prompt,
    objects: Mapping[tuple[str, str], str],
    pools: Mapping[tuple[str, str], Sequence[str]],
) -> Trial:
    """The trial of a steering at a prompt. Its candidates are those of all three relations."""
    relations = {"nothing": steering.asked, "relation": steering.relation, "wrong": steering.wrong}
    return Trial(
        "bound",
        steering.group,
        prompt,
        steering.subject,
        {label: objects[steering.subject, relation] for label, relation in relations.items()},
        union(*(pools[steering.subject, relation] for relation in relations.values())),
    )


def bare_prompt(relation: str) -> Prompt:
    """The subject's name alone."""
    return Prompt(relation, BARE, 0, "{subject}", "")


def vectors_for(
    steerings: Sequence[Steering],
    keys: Mapping[str, Array],
    base: Array | None,
    kind: str,
    seed: int = 0,
) -> Array:
    """(n, S, d): the vector of each steering at each site.

    keys: relation -> subject-averaged key-token state (S, d); base: what is taken off, (S, d), or None for the
    asked relation's key. kind: own, wrong, or random: a Gaussian direction, another one for each steering and
    site, as long as the own vector.
    """
    if kind not in VECTORS:
        raise NotIdentifiable(f"kind={kind!r} is no vector; give one of {', '.join(VECTORS)}")
    of = {"wrong": lambda s: s.wrong}.get(kind, lambda s: s.relation)
    vectors = np.stack([keys[of(s)] - (keys[s.asked] if base is None else base) for s in steerings])
    if kind != "random":
        return vectors
    drawn = np.random.default_rng([seed, 2]).normal(size=vectors.shape)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return drawn * lengths / np.linalg.norm(drawn, axis=-1, keepdims=True)


def steer(
    model: Any,
    tokenizer: Any,
    trials: Sequence[Trial],
    vectors: Mapping[str, Array],
    sites: Sequence[str],
    *,
    batch_size: int = 64,
) -> Iterator[tuple[str, Array, Array]]:
    """Yield (kind of vector, labels, free), each (n_trials, n_sites): each kind added at the last token, one site
    at a time."""
    import torch

    positions = positions_of(tokenizer, [(t.prompt, t.subject) for t in trials], "last")
    for kind, values in vectors.items():
        added = torch.as_tensor(values, dtype=torch.float32)
        yield (
            kind,
            *changed_answers(
                model, tokenizer, trials, positions, added, sites, add=True, batch_size=batch_size
            ),
        )
