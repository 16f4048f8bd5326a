"""A tiny random language model, built on the spot: for trying every command in seconds, not for findings.

    python -m training.memorize --model tiny --subjects 16 --pool 4 --epochs 60 --learning-rate 3e-3 --out runs/tiny

Four Llama layers of width 64 with random weights and a byte-level tokenizer trained on the built-in prompts. It has
never read English: it memorises, and what it generalises to is no evidence about language models.
"""

from pathlib import Path

LAYERS = 4
WIDTH = 64
VOCABULARY = 1024
SEED = 0


def build_tiny(folder: Path) -> None:
    """Write the model and its tokenizer to `folder` in Hugging Face format; the same every time."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from training.facts import build_facts
    from training.prompts import load_prompts

    facts = build_facts("people", subjects=400, pool=32)
    texts = [p.text for p in load_prompts(list(dict.fromkeys(f.relation for f in facts)))]
    texts += [f"{f.subject} {f.object}." for f in facts]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<|end|>"],
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
