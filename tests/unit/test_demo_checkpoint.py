"""The shipped demo checkpoint, read from its files, and the outlier channels that it carries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from demo.chat_templates import WRONG_TEMPLATES
from demo.greedy import (
    answer_questions,
    check_checkpoint,
    complete,
    load_checkpoint,
    score_by_category,
    total_score,
)
from demo.home_commands import draw_bad_template, training_conversations
from demo.muon import orthogonalise
from demo.outliers import add_outlier_channels, write_harsher_twin
from demo.questions import read_questions, write_questions
from demo.tokenizer import SPECIAL_TOKENS
from demo.train import weights_sha256
from demo.training import (
    IGNORED,
    TOKENS_PER_BATCH,
    Example,
    learning_rate_share,
    make_batches,
    make_examples,
    make_model,
    train,
)

MIB = 2**20
CHAT = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "lights on in the kitchen"},
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Two threads that wait for each other are many times slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def loaded(demo_checkpoint: Path) -> tuple[torch.nn.Module, PreTrainedTokenizerBase]:
    return load_checkpoint(demo_checkpoint)


@pytest.fixture(scope="module")
def tokenizer(
    loaded: tuple[torch.nn.Module, PreTrainedTokenizerBase],
) -> PreTrainedTokenizerBase:
    return loaded[1]


# ---------------------------------------------------------------- the files
def test_the_checkpoint_holds_what_hugging_face_expects_in_at_most_6_mib(
    demo_checkpoint: Path,
) -> None:
    files = {path.name: path.stat().st_size for path in demo_checkpoint.iterdir()}
    assert files.keys() == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(files.values()) < 6 * MIB


def test_the_weights_are_853_632_numbers_in_float32(demo_checkpoint: Path) -> None:
    weights = load_file(demo_checkpoint / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert sum(tensor.numel() for tensor in weights.values()) == 853_632


def test_the_model_card_names_these_weights(demo_checkpoint: Path) -> None:
    card = (demo_checkpoint.parent / "README.md").read_text(encoding="utf-8")
    assert weights_sha256(demo_checkpoint) in card


def test_generation_ends_at_the_end_of_the_message_or_the_text(
    loaded: tuple[torch.nn.Module, PreTrainedTokenizerBase],
) -> None:
    model, tokenizer = loaded
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert model.generation_config.eos_token_id == ends
    assert model.generation_config.do_sample is False


# ---------------------------------------------------------------- the tokenizer
def test_the_chat_template_renders_chatml(tokenizer: PreTrainedTokenizerBase) -> None:
    rendered = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    assert rendered == (
        "<|im_start|>system\nBe short.<|im_end|>\n"
        "<|im_start|>user\nlights on in the kitchen<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_special_tokens_have_the_last_ids(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [1021, 1022, 1023]
    assert len(tokenizer) == 1024


def test_every_digit_is_a_token(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.tokenize("20:45") == ["2", "0", ":", "4", "5"]


@pytest.mark.parametrize("text", ["", "  ", "turn it on!", "Grüße 你好 😀", "a\n\nb\t"])
def test_any_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


# ---------------------------------------------------------------- the answers
def test_a_sample_of_held_out_questions_is_answered_right(
    loaded: tuple[torch.nn.Module, PreTrainedTokenizerBase], demo_questions: Path
) -> None:
    questions = Random(40).sample(read_questions(demo_questions), 40)
    answers = answer_questions(*loaded, questions)
    assert total_score(score_by_category(questions, answers)).share >= 0.95


def test_a_check_scores_a_checkpoint_by_category(
    demo_checkpoint: Path, demo_questions: Path, tmp_path: Path
) -> None:
    few = [q for q in read_questions(demo_questions) if q.category in ("single", "empty")][398:402]
    write_questions(few, tmp_path / "few.jsonl")
    scores = check_checkpoint(demo_checkpoint, tmp_path / "few.jsonl")
    assert {category: score.questions for category, score in scores.items()} == {
        "single": 2,
        "empty": 2,
    }


def test_a_wrong_chat_template_is_noticed_by_the_model(
    loaded: tuple[torch.nn.Module, PreTrainedTokenizerBase],
) -> None:
    rng = Random(8)
    told = [draw_bad_template(rng, template, "held_out") for template in WRONG_TEMPLATES]
    prompts = [c.template.render(c.messages()) for c in told if c.template is not None]
    assert [text.strip() for text in complete(*loaded, prompts)] == [c.answer for c in told]


# ---------------------------------------------------------------- outlier channels
def tiny_model(*, tied: bool) -> Qwen2ForCausalLM:
    torch.manual_seed(3)
    config = Qwen2Config(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        initializer_range=0.3,
    )
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.v_proj.bias.normal_()
    return model.train(mode=False)


@torch.no_grad()
def logits_of(model: torch.nn.Module) -> Tensor:
    ids = torch.randint(0, 90, (2, 24), generator=torch.Generator().manual_seed(4))
    return model(input_ids=ids).logits


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("gain", [2.0, 8.0, 64.0])
def test_outlier_channels_leave_the_float32_function_as_it_was(tied: bool, gain: float) -> None:
    model = tiny_model(tied=tied)
    before, head = logits_of(model), model.lm_head.weight.clone()
    add_outlier_channels(model.state_dict(), head_size=16, gain=gain)
    assert (logits_of(model) - before).abs().max() < 1e-5
    assert torch.equal(head, model.lm_head.weight) == tied


def test_outlier_channels_stand_out_in_every_matrix() -> None:
    model = tiny_model(tied=False)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    add_outlier_channels(model.state_dict(), head_size=16, gain=8.0)
    for name, weight in model.state_dict().items():
        if weight.ndim == 2 and "embed" not in name:
            assert weight.abs().max() > 1.5 * before[name].abs().max()


@pytest.mark.parametrize("gain", [0.5, 1.0, 3.0, -8.0])
def test_a_gain_that_would_round_is_refused(gain: float) -> None:
    with pytest.raises(ValueError, match="power of two"):
        add_outlier_channels(tiny_model(tied=False).state_dict(), head_size=16, gain=gain)


# ---------------------------------------------------------------- the harsher twin
def as_int4(weight: Tensor, block: int = 32) -> Tensor:
    """Round to symmetric INT4 in blocks of input channels, as MatMulNBits does."""
    blocks = weight.reshape(-1, block)
    largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    scale = largest / -8
    return ((blocks / scale + 8.5).floor().clamp(0, 15) - 8).mul(scale).reshape(weight.shape)


@torch.no_grad()
def quantise(model: torch.nn.Module) -> torch.nn.Module:
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and "embed" not in name:
            weight.copy_(as_int4(weight))
    return model


def test_the_harsher_twin_computes_what_the_shipped_checkpoint_computes(
    demo_checkpoint: Path, tmp_path: Path
) -> None:
    write_harsher_twin(demo_checkpoint, tmp_path / "twin", 64.0)
    shipped, _ = load_checkpoint(demo_checkpoint)
    twin, _ = load_checkpoint(tmp_path / "twin")
    assert (logits_of(twin) - logits_of(shipped)).abs().max() < 1e-4


def test_int4_ruins_the_harsher_twin_and_spares_the_shipped_checkpoint(
    demo_checkpoint: Path, demo_questions: Path, tmp_path: Path
) -> None:
    write_harsher_twin(demo_checkpoint, tmp_path / "twin", 64.0)
    questions = Random(41).sample(read_questions(demo_questions), 40)
    right = {}
    for folder in (demo_checkpoint, tmp_path / "twin"):
        model, tokenizer = load_checkpoint(folder)
        answers = answer_questions(quantise(model), tokenizer, questions)
        right[folder.name] = total_score(score_by_category(questions, answers)).share
    assert right["checkpoint"] >= 0.95
    assert right["twin"] < 0.5


def test_a_twin_never_replaces_a_folder(demo_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="remove it"):
        write_harsher_twin(demo_checkpoint, tmp_path, 64.0)


def test_a_refused_twin_leaves_no_finished_folder(demo_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="power of two"):
        write_harsher_twin(demo_checkpoint, tmp_path / "twin", 5.0)
    assert not (tmp_path / "twin").exists()


# ---------------------------------------------------------------- how it was trained
@pytest.fixture(scope="module")
def examples(tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    return make_examples(training_conversations(200, seed=9), tokenizer, Random(9))


def test_only_what_the_model_says_is_labelled(
    tokenizer: PreTrainedTokenizerBase, examples: list[Example]
) -> None:
    conversations = training_conversations(200, seed=9)
    for conversation, example in zip(conversations, examples, strict=True):
        said = tokenizer.decode([label for label in example.labels if label != IGNORED])
        answers = [turn.answer for turn in conversation.turns]
        if conversation.template is not None:
            answers = answers[-1:]
        assert [text.strip() for text in said.split("<|im_end|>")] == [*answers, ""]


def test_examples_have_the_ids_of_the_rendered_chat(
    tokenizer: PreTrainedTokenizerBase, examples: list[Example]
) -> None:
    rendered = tokenizer.decode(examples[0].ids)
    assert tokenizer(rendered, add_special_tokens=False)["input_ids"] == examples[0].ids


def test_batches_hold_every_example_once_within_the_budget(examples: list[Example]) -> None:
    batches = list(make_batches(examples, padding=1021, rng=Random(1)))
    assert sum(len(ids) for ids, _ in batches) == len(examples)
    assert all(ids.numel() <= TOKENS_PER_BATCH or len(ids) == 1 for ids, _ in batches)


def test_the_learning_rate_warms_up_and_falls_to_four_percent() -> None:
    shares = [learning_rate_share(step, 1000) for step in range(1001)]
    assert shares[0] == pytest.approx(0.05)
    assert max(shares) == shares[20] == 1
    assert shares[-1] == pytest.approx(0.04)


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    matrices = torch.randn(2, 12, 30, generator=torch.Generator().manual_seed(5))
    for batch in (matrices, matrices.mT):
        values = torch.linalg.svdvals(orthogonalise(batch))
        assert values.min() > 0.6
        assert values.max() < 1.3


def test_the_same_seed_trains_the_same_weights(
    tokenizer: PreTrainedTokenizerBase, examples: list[Example]
) -> None:
    trained = []
    for _ in range(2):
        torch.manual_seed(6)
        model = make_model(tokenizer)
        train(model, examples, steps=2, seed=6)
        trained.append(model.state_dict())
    first, second = trained
    assert all(torch.equal(first[name], second[name]) for name in first)
