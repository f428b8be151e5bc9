"""The adapter to ONNX Runtime GenAI: what is computed in pieces, rewound or pruned is the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.core.errors import VariantUnusable
from tasks.core.records import Message
from tasks.examine.generation import CHUNK_TOKENS, Engine, Guidance
from tasks.examine.hugging_face import CheckpointTokenizer, hugging_face_logits
from tests.examine_subjects import build_folders, changed_copy, edit_json
from tests.tiny_models import write_tiny_checkpoint

pytestmark = pytest.mark.real

SEQUENCE = [int(token) for token in np.random.default_rng(0).integers(5, 300, 300)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("generation") / "checkpoint")


@pytest.fixture(scope="module")
def folders(checkpoint: Path) -> dict[str, Path]:
    return build_folders(
        checkpoint, checkpoint.parent, fp32="fp32", pruned="fp32,prune_lm_head=true"
    )


@pytest.fixture(scope="module")
def engine(folders: dict[str, Path]) -> Engine:
    return Engine(folders["fp32"])


def rows(engine: Engine, start: int = 0) -> np.ndarray:
    return np.concatenate(list(engine.logits(SEQUENCE, start=start)))


def test_logits_are_hugging_faces(engine: Engine, checkpoint: Path) -> None:
    [truth] = hugging_face_logits(checkpoint, [(SEQUENCE, 0)])
    assert np.abs(rows(engine) - truth).max() < 1e-4


def test_hugging_faces_logits_come_one_by_one_and_hold_no_more_than_was_asked(
    checkpoint: Path,
) -> None:
    begun: list[int] = []

    def sequences() -> Iterator[tuple[list[int], int]]:
        for start in (290, 280):
            begun.append(start)
            yield SEQUENCE, start

    stream = hugging_face_logits(checkpoint, sequences())
    first = next(stream)
    assert begun == [290]
    assert first.shape[0] == 10
    assert first.base is None
    assert not torch.is_inference_mode_enabled()
    assert [len(rest) for rest in stream] == [20]


LIMITED = """
import resource, sys
import psutil
from pathlib import Path
from tasks.core.errors import DoesNotFit
from tasks.examine.generation import Engine
where, folder, room = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])

def limit():
    used = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))

try:
    if where == "load":
        limit()
    engine = Engine(folder)
    limit()
    engine.complete([5] * 400, 50)
except DoesNotFit as problem:
    print(problem, flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds a process's memory")
@pytest.mark.parametrize(("where", "words"), [("load", "cannot load"), ("run", "decoding failed")])
def test_engine_that_runs_out_of_memory_is_not_an_unusable_variant(
    folders: dict[str, Path], where: str, words: str
) -> None:
    code = [sys.executable, "-c", LIMITED, where, str(folders["fp32"]), "300000"]
    said = subprocess.run(code, capture_output=True, text=True, check=False)
    assert words in said.stdout, said.stderr
    assert "for lack of memory" in said.stdout


@pytest.mark.parametrize("start", [1, CHUNK_TOKENS - 1, CHUNK_TOKENS, 299])
def test_logits_from_a_later_start_are_the_same_rows(engine: Engine, start: int) -> None:
    assert (rows(engine, start) == rows(engine)[start:]).all()


def test_pruned_head_is_gone_through_token_by_token(
    engine: Engine, folders: dict[str, Path]
) -> None:
    pruned = rows(Engine(folders["pruned"]), 100)
    assert pruned.shape == (200, engine.vocabulary_size)
    assert np.abs(pruned - rows(engine, 100)).max() < 1e-4


def test_interleaved_sequences_on_one_engine_are_refused(engine: Engine) -> None:
    stream = engine.logits(SEQUENCE)
    next(stream)
    engine.complete(SEQUENCE[:5], 2)
    with pytest.raises(AssertionError, match="in between"):
        next(stream)


def test_rewound_generator_gives_what_a_new_one_gives(engine: Engine) -> None:
    prompts = [SEQUENCE[start : start + 9 + start] for start in range(0, 80, 7)]
    rewound = [engine.complete(prompt, 20) for prompt in prompts]
    assert rewound == [engine.complete(prompt, 20, afresh=True) for prompt in prompts]
    assert rewound == [engine.complete(prompt, 20, chunk=3) for prompt in prompts]


def test_end_of_sequence_is_the_last_token_and_not_in_the_text(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    prompt = SEQUENCE[:20]
    said = Engine(folders["fp32"]).complete(prompt, 10).tokens
    end = said[4]

    def end_there(folder: Path) -> None:
        edit_json(
            folder / "genai_config.json", lambda config: config["model"].update(eos_token_id=[end])
        )

    found = Engine(changed_copy(folders["fp32"], tmp_path / "ends", end_there)).complete(prompt, 10)
    assert found.stopped
    assert found.tokens == said[: said.index(end) + 1]


def test_constrained_answer_leaves_no_trace_in_the_next_one(engine: Engine) -> None:
    prompt = SEQUENCE[:20]
    free = engine.complete(prompt, 30)
    bound = engine.complete(prompt, 30, guidance=Guidance("regex", "[a-z]{5}"))
    assert bound.stopped
    assert engine.decode(bound.tokens).isalpha()
    assert len(engine.decode(bound.tokens)) == 5
    assert engine.complete(prompt, 30) == free
    assert engine.complete(prompt, 30, guidance=Guidance("regex", "[a-z]{5}")) == bound


def test_constraint_is_checked_without_an_answer(engine: Engine) -> None:
    assert engine.guidance_problem(Guidance("regex", "[a-z]{5}")) is None
    assert engine.guidance_problem(Guidance("json_schema", '{"type": "integer"}')) is None
    for wrong in (Guidance("regex", "(?=a)b"), Guidance("json_schema", '{"type": "number')):
        assert "Error creating grammar" in (engine.guidance_problem(wrong) or "")
        with pytest.raises(VariantUnusable, match="Error creating grammar"):
            engine.complete(SEQUENCE[:20], 5, guidance=wrong)


def test_empty_prompt_is_refused_in_the_engines_words(engine: Engine) -> None:
    with pytest.raises(VariantUnusable, match="no prior state"):
        engine.complete([], 5)


def test_render_and_encode_are_transformers(engine: Engine, checkpoint: Path) -> None:
    truth = CheckpointTokenizer(checkpoint)
    messages = [Message(role="system", content="a"), Message(role="user", content="Naïve café?")]
    assert engine.render(messages) == truth.render(messages)
    assert engine.encode(engine.render(messages)) == truth.prompt(messages)
    assert truth.end_of_turn() in engine.eos_token_ids


def test_folder_that_does_not_load_is_told_in_the_engines_words(tmp_path: Path) -> None:
    with pytest.raises(VariantUnusable, match=r"cannot load absent: .*genai_config\.json"):
        Engine(tmp_path / "absent")


def test_sequence_longer_than_the_context_is_refused(engine: Engine) -> None:
    with pytest.raises(VariantUnusable, match="max_length"):
        engine.complete(SEQUENCE, engine.context_length)
