"""How many held-out questions a checkpoint answers right, by greedy decoding with transformers.

    python -m demo.greedy CHECKPOINT QUESTIONS

Counts an answer as right only if it is the expected text, character by character; that is at
least as strict as every expectation of `demo.questions`.
"""

import argparse
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from demo.questions import Question, read_questions

log = logging.getLogger(__name__)

LONGEST_ANSWER_TOKENS: Final = 64
PROMPTS_PER_BATCH: Final = 64


@dataclass(frozen=True)
class Score:
    """How many of the questions of a category were answered right."""

    right: int
    questions: int

    @property
    def share(self) -> float:
        """The share of right answers, from 0 to 1."""
        return self.right / self.questions


def load_checkpoint(folder: Path) -> tuple[torch.nn.Module, PreTrainedTokenizerBase]:
    """Load a checkpoint and its tokenizer from a local folder, in float32."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    return model.train(mode=False), AutoTokenizer.from_pretrained(folder, local_files_only=True)


@torch.no_grad()
def complete(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]
) -> list[str]:
    """Continue every prompt greedily up to the end of the message, in the order given."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    completions = [""] * len(prompts)
    for start in range(0, len(order), PROMPTS_PER_BATCH):
        batch = order[start : start + PROMPTS_PER_BATCH]
        inputs = tokenizer(
            [prompts[index] for index in batch],
            add_special_tokens=False,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        output = model.generate(  # type: ignore[operator]  # a mixin that torch does not know of
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=LONGEST_ANSWER_TOKENS,
            do_sample=False,
        )
        texts = tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
        for index, text in zip(batch, texts, strict=True):
            completions[index] = text
    return completions


def answer_questions(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]
) -> list[str]:
    """Answer every question through the tokenizer's own chat template."""
    prompts = [
        str(
            tokenizer.apply_chat_template(
                [{"role": m["role"], "content": m["content"]} for m in question.messages],
                add_generation_prompt=True,
                tokenize=False,
            )
        )
        for question in questions
    ]
    return complete(model, tokenizer, prompts)


def score_by_category(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, Score]:
    """Count the answers that equal the expected text, by category, in the questions' order."""
    asked: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for question, answer in zip(questions, answers, strict=True):
        asked[question.category] += 1
        right[question.category] += answer == question.answer
    return {category: Score(right[category], count) for category, count in asked.items()}


def total_score(scores: dict[str, Score]) -> Score:
    """Add the categories up."""
    return Score(
        sum(score.right for score in scores.values()),
        sum(score.questions for score in scores.values()),
    )


def check_checkpoint(checkpoint: Path, questions_file: Path) -> dict[str, Score]:
    """Answer the questions of the file with the checkpoint, and log each wrong answer."""
    questions = read_questions(questions_file)
    answers = answer_questions(*load_checkpoint(checkpoint), questions)
    for question, answer in zip(questions, answers, strict=True):
        if answer != question.answer:
            asked = question.messages[-1]["content"]
            log.info("%s asked %r: %r, not %r", question.id, asked, answer, question.answer)
    return score_by_category(questions, answers)


def log_scores(scores: dict[str, Score]) -> None:
    """Log one line a category, and the total."""
    for category, score in {**scores, "all": total_score(scores)}.items():
        log.info("%-14s %4d of %4d  %.4f", category, score.right, score.questions, score.share)


def main() -> None:
    """Check a checkpoint from the command line."""
    parser = argparse.ArgumentParser(description="Score a checkpoint on held-out questions.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(arguments.threads)
    log_scores(check_checkpoint(arguments.checkpoint, arguments.questions))


if __name__ == "__main__":
    main()
