"""A conversation with a registered model, streamed, in this process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasks.core.errors import InputError
from tasks.core.records import Message
from tasks.core.settings import Settings
from tasks.foundry.chat import Chat, open_chat
from tasks.foundry.greedy import GreedyModel
from tasks.foundry.runtime import foundry_runtime
from tests.foundry_variants import tiny_folder

pytestmark = pytest.mark.real

MODEL_ID = "tiny-int4-cpu:1"
HELLO = [Message(role="user", content="Hello! How are you?")]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    with foundry_runtime(settings.foundry, settings.logs) as runtime:
        runtime.register(MODEL_ID, tiny_folder(), {})
    return settings


@pytest.fixture
def chat(home: Settings) -> Iterator[Chat]:
    with open_chat(home, MODEL_ID) as opened:
        yield opened


def test_pieces_add_up_to_the_greedy_answer(chat: Chat) -> None:
    pieces = list(chat.ask(HELLO, max_tokens=24))
    assert len(pieces) > 1
    assert "".join(pieces) == GreedyModel(tiny_folder()).answer(HELLO, max_tokens=24)


def test_conversations_are_not_remembered(chat: Chat) -> None:
    first = "".join(chat.ask(HELLO, max_tokens=8))
    assert "".join(chat.ask(HELLO, max_tokens=8)) == first


def test_reader_who_leaves_early_can_ask_again(chat: Chat) -> None:
    answer = chat.ask(HELLO, max_tokens=200)
    first = next(answer)
    answer.close()  # type: ignore[attr-defined]  # a generator, typed as what callers need
    assert next(chat.ask(HELLO, max_tokens=200)) == first


def test_limit_larger_than_the_context_is_cut_to_what_is_left(chat: Chat) -> None:
    assert list(chat.ask(HELLO, max_tokens=100_000))


def test_conversation_longer_than_the_context_is_refused_in_words(chat: Chat) -> None:
    with pytest.raises(InputError, match="start a new conversation"):
        list(chat.ask([Message(role="user", content="light " * 600)], max_tokens=8))


@pytest.mark.parametrize("text", ["ab\x00cd", "half \ud800 pair"])
def test_text_that_the_runtime_would_cut_is_refused(chat: Chat, text: str) -> None:
    message = Message.model_construct(role="user", content=text)
    with pytest.raises(InputError, match="in a message"):
        list(chat.ask([message], max_tokens=8))


def test_model_that_is_not_registered_is_answered_with_those_that_are(home: Settings) -> None:
    unknown = open_chat(home, "other-int4-cpu:1")
    with pytest.raises(InputError, match=r"not registered.*tiny-int4-cpu:1"):
        unknown.__enter__()


def test_whole_alias_is_never_unregistered(home: Settings) -> None:
    with foundry_runtime(home.foundry, home.logs) as runtime:
        with pytest.raises(InputError, match="is an alias"):
            runtime.unregister("tiny-int4-cpu")
        assert runtime.listed_ids() == [MODEL_ID]
