"""Make the demo checkpoint from nothing but code: draw, tokenise, train, add outliers, check.

    python -m demo.train OUT [--seed 7] [--steps 2000] [--threads 1]

The shipped checkpoint was made by

    python -m demo.train demo/checkpoint --seed 7 --steps 2000 --threads 1

OUT appears, in Hugging Face's layout, only when it is complete, and questions.jsonl beside it.
One and two threads gave the same weights, bit for bit (2026-11); another processor or another
version of torch may not.
"""

import argparse
import hashlib
import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

import torch
from transformers import Qwen2ForCausalLM

from demo.greedy import check_checkpoint, log_scores
from demo.home_commands import training_conversations
from demo.outliers import add_outlier_channels
from demo.questions import make_questions, write_questions
from demo.tokenizer import write_tokenizer
from demo.training import make_examples, make_model, train

log = logging.getLogger(__name__)

CONVERSATIONS_FOR_TOKENIZER: Final = 8_000
CONVERSATIONS_PER_STEP: Final = 40
QUESTIONS_FILE: Final = "questions.jsonl"


@dataclass(frozen=True)
class Settings:
    """What decides the weights, on one machine with one version of torch."""

    seed: int = 7
    steps: int = 2000


def make_checkpoint(out: Path, settings: Settings) -> None:
    """Train the demo model and write the finished checkpoint and its questions.

    Raises:
        FileExistsError: OUT is there already.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists; remove it or name another folder")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model = fine_tune(partial, settings)
    head_size = model.config.hidden_size // model.config.num_attention_heads
    add_outlier_channels(model.state_dict(), head_size=head_size)
    model.save_pretrained(partial)
    write_questions(make_questions(), out.with_name(QUESTIONS_FILE))
    partial.rename(out)


def fine_tune(folder: Path, settings: Settings) -> Qwen2ForCausalLM:
    """Train the tokenizer, saved to the folder, and the model, without outliers yet."""
    torch.manual_seed(settings.seed)
    torch.use_deterministic_algorithms(True)
    # Named generators: two with the same seed would draw the same numbers, and so tie what
    # has nothing to do with each other (the category of a conversation and its line breaks).
    spelling = Random(f"spelling {settings.seed}")  # noqa: S311  # has to be repeatable, not secret
    count = settings.steps * CONVERSATIONS_PER_STEP
    conversations = training_conversations(count, settings.seed)
    tokenizer = write_tokenizer(conversations[:CONVERSATIONS_FOR_TOKENIZER], folder)
    model = make_model(tokenizer)
    examples = make_examples(conversations, tokenizer, spelling)
    log.info(
        "%d parameters, %d conversations, %d tokens",
        model.num_parameters(),
        len(examples),
        sum(len(example.ids) for example in examples),
    )
    train(model, examples, steps=settings.steps, seed=settings.seed)
    return model


def weights_sha256(checkpoint: Path) -> str:
    """Give the digest of the weights file."""
    return hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()


def main() -> None:
    """Make a checkpoint from the command line, and log what it cost and what it can do."""
    parser = argparse.ArgumentParser(description="Make the demo checkpoint.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(arguments.threads)
    started_s = time.monotonic()
    make_checkpoint(arguments.out, Settings(arguments.seed, arguments.steps))
    log.info("made in %.0f s, %.0f CPU seconds", time.monotonic() - started_s, time.process_time())
    log.info("weights sha256 %s", weights_sha256(arguments.out))
    log_scores(check_checkpoint(arguments.out, arguments.out.with_name(QUESTIONS_FILE)))


if __name__ == "__main__":
    main()
