"""What Olive leaves behind is taken over file by file, and only when it is whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.core.errors import VariantUnusable
from tasks.variants.build_child import collect_model, require_one_template

REQUIRED = [
    "model.onnx",
    "model.onnx.data",
    "genai_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "output" / "output_model" / "model"
    folder.mkdir(parents=True)
    for name in [*REQUIRED, "chat_template.jinja", "model_config.json"]:
        (folder / name).write_text("{}")
    return tmp_path / "output"


def test_model_files_end_up_flat_and_nothing_else_does(output: Path, tmp_path: Path) -> None:
    collect_model(output, tmp_path / "model")
    names = sorted(file.name for file in (tmp_path / "model").iterdir())
    assert names == sorted([*REQUIRED, "chat_template.jinja"])


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("fault", ["missing", "empty"])
def test_incomplete_output_is_never_taken_over(
    output: Path, tmp_path: Path, name: str, fault: str
) -> None:
    file = next(output.rglob(name))
    if fault == "missing":
        file.unlink()
    else:
        file.write_bytes(b"")
    with pytest.raises(VariantUnusable, match=name):
        collect_model(output, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("inline", "file"), [(True, True), (False, False)], ids=["in two places", "nowhere"]
)
def test_chat_template_must_be_in_exactly_one_place(
    tmp_path: Path, inline: bool, file: bool
) -> None:
    config = {"chat_template": "{{ messages }}"} if inline else {}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    if file:
        (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(VariantUnusable, match="exactly one place"):
        require_one_template(tmp_path)
