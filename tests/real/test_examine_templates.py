"""The two real template engines: what they render alike, and the known case where they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.examine.generation import Engine
from tasks.examine.hugging_face import CheckpointTokenizer
from tasks.examine.template import CONVERSATIONS, Parity, compare, normalisation_notes
from tests.examine_subjects import build_folders, changed_copy
from tests.tiny_models import write_tiny_checkpoint

pytestmark = pytest.mark.real

LLAMA_LIKE = (
    "{{- bos_token -}}{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n\\n' + (message['content'] | trim) + '<|im_end|>'"
    " -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n\\n' -}}{%- endif -%}"
)
NO_SYSTEM = (
    "{%- for message in messages -%}{%- if message['role'] == 'system' -%}"
    "{{- raise_exception('System role not supported') -}}{%- endif -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
)
# transformers drops the newline after a block tag, GenAI 0.18 keeps it.
ZEPHYR_LIKE = (
    "{% for message in messages %}\n"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}\n{{ '<|im_start|>assistant' }}\n{% endif %}"
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("templates") / "checkpoint")


@pytest.fixture(scope="module")
def built(checkpoint: Path) -> Path:
    return build_folders(checkpoint, checkpoint.parent, built="fp32")["built"]


def with_template(template: str, checkpoint: Path, built: Path, scratch: Path) -> Parity:
    def write(folder: Path) -> None:
        (folder / "chat_template.jinja").write_text(template)

    truth = CheckpointTokenizer(changed_copy(checkpoint, scratch / "checkpoint", write))
    return compare(CONVERSATIONS, truth, Engine(changed_copy(built, scratch / "built", write)))


@pytest.mark.parametrize("template", [LLAMA_LIKE, NO_SYSTEM])
def test_trimmed_templates_and_refusals_are_alike(
    template: str, checkpoint: Path, built: Path, tmp_path: Path
) -> None:
    parity = with_template(template, checkpoint, built, tmp_path)
    assert (parity.text_mismatches, parity.token_mismatches) == (0, 0), parity.notes


def test_untrimmed_template_differs_by_newlines_and_is_seen(
    checkpoint: Path, built: Path, tmp_path: Path
) -> None:
    parity = with_template(ZEPHYR_LIKE, checkpoint, built, tmp_path)
    assert parity.text_mismatches == parity.token_mismatches == len(CONVERSATIONS)
    assert "conversation 'single'" in parity.notes[0]


def test_genai_still_does_not_normalise(checkpoint: Path, built: Path) -> None:
    # When this fails, load_questions need not compose texts any more.
    assert normalisation_notes(CheckpointTokenizer(checkpoint), Engine(built)) != []
