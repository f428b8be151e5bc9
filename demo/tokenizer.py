"""The demo tokenizer: 1,024 byte-level pieces in Qwen2's layout, trained on the domain's text."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer

from demo.chat_templates import CHATML
from demo.home_commands import Conversation

VOCABULARY_SIZE: Final = 1024
LONGEST_INPUT: Final = 4096
END_OF_TEXT: Final = "<|endoftext|>"
START_OF_MESSAGE: Final = "<|im_start|>"
END_OF_MESSAGE: Final = "<|im_end|>"
# Added after training, hence the last ids, as in Qwen2.
SPECIAL_TOKENS: Final = (END_OF_TEXT, START_OF_MESSAGE, END_OF_MESSAGE)
# Qwen2's own pattern; \p{N} without a count keeps digits single.
QWEN2_SPLIT: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def write_tokenizer(conversations: Iterable[Conversation], folder: Path) -> PreTrainedTokenizerBase:
    """Train the tokenizer, save it with the ChatML template, and load what was saved."""
    raw = train_pieces(conversations)
    folder.mkdir(parents=True, exist_ok=True)
    raw.save(str(folder / "tokenizer.json"))
    tokenizer = Qwen2Tokenizer.from_pretrained(
        folder,
        eos_token=END_OF_MESSAGE,
        pad_token=END_OF_TEXT,
        unk_token=None,
        model_max_length=LONGEST_INPUT,
    )
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    loaded = Qwen2Tokenizer.from_pretrained(folder)
    assert isinstance(loaded, PreTrainedTokenizerBase)
    return loaded


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """Give the id of one token that the vocabulary has."""
    return int(tokenizer.get_vocab()[token])


def train_pieces(conversations: Iterable[Conversation]) -> Tokenizer:
    """Learn the pieces from what users, systems and the model say; special tokens come last."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(conversations), trainer)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    return tokenizer


def _texts(conversations: Iterable[Conversation]) -> Iterator[str]:
    for conversation in conversations:
        for message in conversation.messages():
            yield from (message["role"], message["content"])
        yield from ("assistant", conversation.answer)
