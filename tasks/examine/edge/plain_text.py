"""Tokenise a text so that nothing in it becomes a control token: the way out of an injection.

ONNX Runtime GenAI 0.18 parses `<|im_end|>` in a user's text as the end of the turn (measured), and
no option of its tokenizer prevents it; Hugging Face's `tokenizers` can. No model here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

_TEMPLATE = "chat_template.jinja"


class PlainTokenizer:
    """A folder's tokenizer.json, with and without control tokens.

    Args:
        folder: holds tokenizer.json and, if it is a file of its own, the chat template.
        eos_token_ids: tokens that end an answer; control tokens whatever the file says.

    Attributes:
        control_tokens: text of each control token by id: what is marked special, ends an answer,
            or stands in the chat template.
    """

    def __init__(self, folder: Path, eos_token_ids: Iterable[int]) -> None:
        content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        template = _template(folder)
        ends = set(eos_token_ids)
        self.control_tokens: dict[int, str] = {}
        for token in content["added_tokens"]:
            if token["special"] or token["id"] in ends or token["content"] in template:
                self.control_tokens[token["id"]] = token["content"]
                # Only special tokens can be switched off, and not every end of a turn is one.
                token["special"] = True
        self._parsing = Tokenizer.from_str(json.dumps(content))
        self._plain = Tokenizer.from_str(json.dumps(content))
        self._plain.encode_special_tokens = True

    def encode(self, text: str) -> list[int]:
        """Tokenise a text of which nothing is a control token, as a user's must be."""
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """Turn tokens into text, control tokens included."""
        return str(self._plain.decode(list(tokens), skip_special_tokens=False))

    def there_and_back(self, text: str) -> str:
        """Give what is left of a text when it is tokenised and decoded: normalising may lose."""
        tokens = self._parsing.encode(text, add_special_tokens=False).ids
        return str(self._parsing.decode(tokens, skip_special_tokens=False))


def _template(folder: Path) -> str:
    file = folder / _TEMPLATE
    if file.is_file():
        return file.read_text(encoding="utf-8")
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    return str(config.get("chat_template") or "")
