"""llama.cpp's own converter from Hugging Face to GGUF, told which kind of vocabulary it reads.

`python -m benchmarks.convert_to_gguf SOURCE CHECKPOINT --outfile FILE --outtype f16`, all but the
first as `convert_hf_to_gguf.py` has it. Two questions are answered for it; nothing else is changed,
and no weight goes through it differently:

- Which pre-tokenizer? It knows one by the hash of what a published vocabulary makes of one text; a
  random checkpoint's vocabulary is nobody's, and is refused. Its pre-tokenizer is Qwen2's, rule by
  rule (`tests/tiny_models.py`).
- SentencePiece or BPE? It imports sentencepiece before it looks for a file of that kind, of which
  there is none, and then takes BPE. Ingot does not install that package.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

PRE_TOKENIZER = "qwen2"


def main() -> None:
    """Run the converter."""
    source = Path(sys.argv.pop(1))
    sys.path[:0] = [str(source), str(source / "gguf-py")]
    converter: Any = import_module("convert_hf_to_gguf")
    text_model: Any = import_module("conversion.base").TextModel
    qwen2_model: Any = import_module("conversion.qwen").Qwen2Model

    text_model.get_vocab_base_pre = lambda _self, _tokenizer: PRE_TOKENIZER
    qwen2_model.set_vocab = text_model._set_vocab_gpt2  # noqa: SLF001  (what follows that import)
    converter.main()


if __name__ == "__main__":
    main()
