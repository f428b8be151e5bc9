"""How the demo model is made and fine-tuned: architecture, batches, loss, schedule.

Knows token ids and gradients; where conversations come from and where weights go is `demo.train`.
"""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from demo.home_commands import Conversation
from demo.muon import Muon
from demo.tokenizer import (
    END_OF_MESSAGE,
    END_OF_TEXT,
    LONGEST_INPUT,
    VOCABULARY_SIZE,
    token_id,
)

log = logging.getLogger(__name__)

IGNORED: Final = -100
TOKENS_PER_BATCH: Final = 2048
# Batches are cut from runs of this many conversations, sorted by length.
CONVERSATIONS_PER_SORT: Final = 4096
WARM_UP_STEPS: Final = 20
FINAL_RATE: Final = 0.04
LARGEST_GRADIENT_NORM: Final = 1.0
# Some runtimes leave out the line break after <|im_end|>, so training does too, now and then.
SHARE_WITHOUT_LINE_BREAK: Final = 0.08


@dataclass(frozen=True)
class Rates:
    """Peak learning rates: of Muon on the matrices, of AdamW on everything else."""

    muon: float = 6e-3
    adamw: float = 8e-3


@dataclass(frozen=True)
class Example:
    """Token ids of one conversation; labels equal them where the model speaks, else IGNORED."""

    ids: list[int]
    labels: list[int]


# ---------------------------------------------------------------- model
def make_model(tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
    """Make the untrained model: Qwen2's architecture, 853,632 parameters.

    What writes to the residual stream starts at zero, which learns about three times faster.
    """
    end_of_message = token_id(tokenizer, END_OF_MESSAGE)
    end_of_text = token_id(tokenizer, END_OF_TEXT)
    config = Qwen2Config(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=LONGEST_INPUT,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=False,
        initializer_range=0.04,
        bos_token_id=end_of_text,
        eos_token_id=end_of_message,
        pad_token_id=end_of_text,
        use_sliding_window=False,
        sliding_window=None,
    )
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=end_of_text,
        eos_token_id=[end_of_message, end_of_text],
        pad_token_id=end_of_text,
        do_sample=False,
    )
    return model


# ---------------------------------------------------------------- examples
def make_examples(
    conversations: Sequence[Conversation], tokenizer: PreTrainedTokenizerBase, rng: Random
) -> list[Example]:
    """Tokenise the conversations, in order."""
    segments = [segments_of(conversation, rng) for conversation in conversations]
    texts = [text for parts in segments for text, _ in parts]
    ids = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    examples = []
    for parts in segments:
        example = Example([], [])
        for _, is_answer in parts:
            tokens = next(ids)
            example.ids.extend(tokens)
            example.labels.extend(tokens if is_answer else [IGNORED] * len(tokens))
        examples.append(example)
    return examples


def segments_of(conversation: Conversation, rng: Random) -> list[tuple[str, bool]]:
    """Split a conversation into pieces of text, each with whether the model has to say it.

    The line break after "assistant" counts as said by the model, so that it also answers
    prompts that end without it. Every piece starts at a special token or at a line break after
    one; the tokens are therefore those of the whole text.
    """
    if conversation.template is not None:
        return _canary_segments(conversation, rng)
    line_break = "" if rng.random() < SHARE_WITHOUT_LINE_BREAK else "\n"
    pieces: list[tuple[str, bool]] = []
    if conversation.system is not None:
        pieces.append((f"<|im_start|>system\n{conversation.system}<|im_end|>{line_break}", False))
    for turn in conversation.turns:
        if pieces and pieces[-1][1]:
            pieces.append((line_break, False))
        asked = f"<|im_start|>user\n{turn.user}<|im_end|>{line_break}<|im_start|>assistant"
        pieces += [(asked, False), (f"\n{turn.answer}<|im_end|>", True)]
    return pieces


def _canary_segments(conversation: Conversation, rng: Random) -> list[tuple[str, bool]]:
    """Render through the wrong template, at times without its last line break."""
    assert conversation.template is not None
    prompt = conversation.template.render(conversation.messages())
    if rng.random() < 0.3:
        prompt = prompt.rstrip("\n") or prompt
    return [(prompt, False), (f"{conversation.answer}<|im_end|>", True)]


# ---------------------------------------------------------------- batches
def make_batches(
    examples: Sequence[Example], padding: int, rng: Random
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each example once, as (ids, labels) of shape (batch, longest), in random order."""
    order = list(range(len(examples)))
    rng.shuffle(order)
    groups: list[list[Example]] = []
    for start in range(0, len(order), CONVERSATIONS_PER_SORT):
        run = [examples[index] for index in order[start : start + CONVERSATIONS_PER_SORT]]
        groups += _groups_of_similar_length(run)
    rng.shuffle(groups)
    for group in groups:
        longest = max(len(example.ids) for example in group)
        ids = [example.ids + [padding] * (longest - len(example.ids)) for example in group]
        labels = [example.labels + [IGNORED] * (longest - len(example.ids)) for example in group]
        yield torch.tensor(ids), torch.tensor(labels)


def _groups_of_similar_length(examples: Sequence[Example]) -> list[list[Example]]:
    """Group by length, at most TOKENS_PER_BATCH each with padding; a longer one is alone."""
    groups: list[list[Example]] = [[]]
    for example in sorted(examples, key=lambda example: len(example.ids)):
        if groups[-1] and len(example.ids) * (len(groups[-1]) + 1) > TOKENS_PER_BATCH:
            groups.append([])
        groups[-1].append(example)
    return groups


def labels_per_batch(examples: Sequence[Example]) -> float:
    """Tell how many labels an average full batch carries."""
    labels = sum(label != IGNORED for example in examples for label in example.labels)
    return TOKENS_PER_BATCH * labels / sum(len(example.ids) for example in examples)


# ---------------------------------------------------------------- training
def learning_rate_share(step: int, steps: int) -> float:
    """Give the share of the peak rate at a step: a short warm-up, then a cosine to FINAL_RATE."""
    if step < WARM_UP_STEPS:
        return (step + 1) / WARM_UP_STEPS
    progress = (step - WARM_UP_STEPS) / max(1, steps - WARM_UP_STEPS)
    return FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * progress)) / 2


def batch_loss(model: Qwen2ForCausalLM, ids: Tensor, labels: Tensor) -> tuple[Tensor, int]:
    """Sum the cross-entropy over the labels, and count them.

    Logits are made only where there is a label: most positions have none.
    """
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    has_label = targets != IGNORED
    logits = model.lm_head(hidden[has_label])
    return cross_entropy(logits, targets[has_label], reduction="sum"), int(has_label.sum())


def split_parameters(model: Qwen2ForCausalLM) -> tuple[list[Parameter], list[Parameter]]:
    """Split into what Muon trains, the matrices within the layers, and what AdamW trains."""
    matrices = [parameter for parameter in model.model.layers.parameters() if parameter.ndim == 2]
    chosen = {id(matrix) for matrix in matrices}
    return matrices, [other for other in model.parameters() if id(other) not in chosen]


def train(
    model: Qwen2ForCausalLM,
    examples: Sequence[Example],
    *,
    steps: int,
    seed: int,
    rates: Rates | None = None,
) -> None:
    """Train the model in place; passes over the examples repeat until the steps are done."""
    rates = rates or Rates()
    rng = Random(f"batches {seed}")  # noqa: S311  # has to be repeatable, not secret
    matrices, others = split_parameters(model)
    muon = Muon(matrices)
    adamw = torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    # One divisor for all batches, so that every answer token counts alike in all of them.
    usual_labels = labels_per_batch(examples)
    batches = _endless_batches(examples, model.generation_config.pad_token_id, rng)
    model.train()
    for step in range(steps):
        loss, labels = batch_loss(model, *next(batches))
        torch.autograd.backward(loss / usual_labels)
        torch.nn.utils.clip_grad_norm_(model.parameters(), LARGEST_GRADIENT_NORM)
        share = learning_rate_share(step, steps)
        adamw.param_groups[0]["lr"] = rates.adamw * share
        adamw.step()
        adamw.zero_grad()
        muon.step(rates.muon * share)
        if (step + 1) % 100 == 0:
            log.info(
                "step %d loss %.5f cpu %.0f s", step + 1, loss.item() / labels, time.process_time()
            )
    model.train(mode=False)


def _endless_batches(
    examples: Sequence[Example], padding: int, rng: Random
) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from make_batches(examples, padding, rng)
