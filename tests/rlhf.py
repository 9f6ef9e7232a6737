"""Tiny models, prompts and trainers that the tests of RLHF share."""

from __future__ import annotations

import torch
import transformers

from fastrl.rlhf import RLHFTrainer

VOCABULARY, PAD, EOS = 12, 0, 1
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 2, 3]]
SMALL = dict(batch_size=16, minibatch_size=8, max_new_tokens=6, learning_rate=1e-3, group_size=4, seed=0,
             eos_token_id=EOS)  # fmt: skip


def llama(seed=0, size=32, scale=4.0, kind=transformers.LlamaForCausalLM, **options):
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(**{
        **dict(vocab_size=VOCABULARY, hidden_size=size, intermediate_size=2 * size, num_hidden_layers=2,
               num_attention_heads=4, max_position_embeddings=48, bos_token_id=None, eos_token_id=None,
               pad_token_id=PAD), **options,
    })  # fmt: skip
    return spread(kind(config), scale)


def gpt2(seed=0, size=32, scale=4.0, dropout=0.3, vocabulary=VOCABULARY, kind=transformers.GPT2LMHeadModel, **options):
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=vocabulary, n_embd=size, n_layer=2, n_head=4, n_positions=48, bos_token_id=None, eos_token_id=None,
        resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout, **options,
    )  # fmt: skip
    return spread(kind(config), scale)


def spread(model, scale):
    """Weights that make some tokens likelier than others."""
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p *= scale
    return model.eval()


def evens(prompts, found):
    """The share of even tokens."""
    return [sum(token % 2 == 0 for token in response) / len(response) for response in found]


def trainer(policy=None, reward_fn=evens, **options):
    return RLHFTrainer(llama() if policy is None else policy, None, reward_fn, **{**SMALL, **options})


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.parameters])


def pairs(n, seed, lengths=(5, 5)):
    """Prompts, and of two responses the one with the greater share of even tokens."""
    import numpy as np

    rng = np.random.default_rng(seed)
    rows = [[rng.integers(2, VOCABULARY, rng.integers(lengths[0], lengths[1] + 1)).tolist() for _ in range(2)]
            for _ in range(n)]  # fmt: skip
    scored = [(evens(None, both), both) for both in rows]
    better = [both if a > b else both[::-1] for (a, b), both in scored if a != b]
    prompts = [rng.integers(2, VOCABULARY, rng.integers(1, 4)).tolist() for _ in better]
    return prompts, [a for a, _ in better], [b for _, b in better]
