"""The one adapter to foundry_local_sdk 2.2.1: index, load, ask, serve.

Its vocabulary never leaves this module. Which model deserves to be registered, and what a right
answer is, are not known here. Importing this module loads nothing heavy.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.core.child import QUIET_ENVIRONMENT
from tasks.core.errors import InputError, ResourceBusy, ToolMissing
from tasks.core.files import sync_file, sync_folder
from tasks.core.records import Message
from tasks.foundry.endpoint import Endpoint
from tasks.foundry.faults import ingot_error, service_error

DIGEST_PROPERTY = "ingot.digest"
INDEX_FILE = "foundry.local.modelinfo.json"
LOOPBACK_ANY_PORT = "http://127.0.0.1:0"


@dataclass(frozen=True)
class RegisteredModel:
    """One entry of the model index.

    Attributes:
        digest: digest of its files as Ingot registered them; None for somebody else's model.
        is_cached: its folder is still there.
    """

    model_id: str
    version: int
    digest: str | None
    folder: Path
    is_cached: bool


@dataclass(frozen=True)
class Reply:
    """One greedy answer.

    Attributes:
        stopped: the model ended it, not the token limit.
    """

    text: str
    stopped: bool


@contextmanager
def foundry_runtime(index: Path, app_data: Path) -> Iterator[FoundryRuntime]:
    """Open Foundry Local on a model index; one at a time in a process.

    Args:
        index: `model_cache_dir`: the folder of the index file; made if it is not there.
        app_data: where it writes its own log files.

    Raises:
        ToolMissing: the package or its native library cannot be imported.
        EnvironmentUnfit: a folder cannot be written.
        ResourceBusy: it does not start.
    """
    sdk = _sdk()
    with of_the_service("starting Foundry Local", index):
        sdk.FoundryLocalManager.initialize(
            sdk.Configuration(
                app_name="ingot",
                app_data_dir=str(app_data),
                model_cache_dir=str(index),
                # Refused requests are raised; its own warnings would land on a user's terminal.
                log_level=sdk.LogLevel.ERROR,
                disable_nonessential_telemetry=True,
                web=sdk.Configuration.WebService(urls=LOOPBACK_ANY_PORT),
            )
        )
    manager = sdk.FoundryLocalManager.instance
    try:
        yield FoundryRuntime(manager, index)
    finally:
        manager.close()


@contextmanager
def translated(doing: str, index: Path) -> Iterator[None]:
    """Turn Foundry Local's exceptions into Ingot's."""
    sdk = _sdk()
    try:
        yield
    except sdk.FoundryLocalException as problem:
        raise ingot_error(problem.error_code, str(problem), doing=doing, index=index) from problem


@contextmanager
def of_the_service(doing: str, index: Path) -> Iterator[None]:
    """Turn Foundry Local's exceptions into Ingot's where no model has a part in them."""
    sdk = _sdk()
    try:
        yield
    except sdk.FoundryLocalException as problem:
        raise service_error(str(problem), doing=doing, index=index) from problem


def newest_in_index(index: Path, alias: str) -> RegisteredModel | None:
    """Read from the index file, starting nothing, what an alias means; None where it cannot be."""
    try:
        document = json.loads((index / INDEX_FILE).read_text(encoding="utf-8"))
        found = [
            RegisteredModel(
                model_id=info["id"],
                version=info["version"],
                digest=info["stringProperties"].get(DIGEST_PROPERTY),
                folder=Path(one["model_path"]),
                is_cached=Path(one["model_path"]).is_dir(),
            )
            for one in document["models"]
            if (info := one["model_info"])["alias"] == alias
        ]
        return max(found, key=lambda entry: entry.version, default=None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


class FoundryRuntime:
    """An open runtime on one model index."""

    def __init__(self, manager: Any, index: Path) -> None:
        self._manager = manager
        self._index = index
        # Never `manager.catalog`, the public one: offline each of its calls retries for seconds.
        with of_the_service("opening the local catalog", index):
            self._catalog = manager.get_catalog(_sdk().CatalogType.LOCAL)

    def versions(self, alias: str) -> dict[int, RegisteredModel]:
        """Give the registered versions of an alias by number; empty when there is none."""
        with translated(f"listing {alias}", self._index):
            # get_model_versions() answers [] for the local catalog (measured, 2.2.1).
            model = self._catalog.get_model(alias)
            variants = [] if model is None else model.variants
            return {entry.version: entry for entry in map(_entry, variants)}

    def find(self, model_id: str) -> RegisteredModel | None:
        """Give one entry by its full id, or None."""
        with translated(f"looking for {model_id}", self._index):
            model = self._catalog.get_model_variant(model_id)
            return None if model is None else _entry(model)

    def listed_ids(self) -> list[str]:
        """Give the ids of all models whose folder is there, sorted."""
        with translated("listing the models", self._index):
            return sorted(model.id for model in self._catalog.get_cached_models())

    def loaded_ids(self) -> list[str]:
        """Give the ids of the models that this process holds in memory, sorted."""
        with translated("listing the loaded models", self._index):
            return sorted(model.id for model in self._catalog.get_loaded_models())

    def register(self, model_id: str, folder: Path, properties: Mapping[str, str]) -> None:
        """Enter a folder in the index; it stays where it is, and its weights are not looked at."""
        sdk = _sdk()
        with translated(f"registering {model_id}", self._index), sdk.ModelInfoBuilder() as info:
            info.set_string_property("task", "chat-completion")
            for key, value in properties.items():
                info.set_string_property(key, value)
            # `..` in a path is refused; links are resolved so that the entry outlives them.
            self._catalog.register_model(str(folder.resolve()), model_id, info)
        self._sync_index()

    def unregister(self, model_id: str) -> None:
        """Take one version out of the index; its files stay.

        Raises:
            InputError: `model_id` has no version: an alias would take all versions with it.
        """
        if ":" not in model_id:
            raise InputError(f"{model_id!r} is an alias, not a model id", expected="<alias>:<N>")
        with translated(f"unregistering {model_id}", self._index):
            self._catalog.unregister_model(model_id)
        self._sync_index()

    def _sync_index(self) -> None:
        """Make the index survive a power cut: Foundry Local renames it into place unsynced (2.2.1).

        Emptied, it would be unreadable, and with it every model of every application.
        """
        with suppress(FileNotFoundError):
            sync_file(self._index / INDEX_FILE)
            sync_folder(self._index)

    @contextmanager
    def loaded(self, model_id: str) -> Iterator[LoadedModel]:
        """Hold a registered model in memory.

        Raises:
            InputError: it is not registered.
            VariantUnusable: its folder does not load; the message has the runtime's reason.
        """
        with translated(f"loading {model_id}", self._index):
            model = self._catalog.get_model_variant(model_id)
            if model is None:
                raise InputError(
                    f"{model_id} is not registered in {self._index}",
                    expected=", ".join(self.listed_ids()) or "a registered model; there is none",
                )
            model.load()
        try:
            yield LoadedModel(model, model_id, self._index)
        finally:
            with translated(f"unloading {model_id}", self._index):
                model.unload()

    @contextmanager
    def serving(self) -> Iterator[Endpoint]:
        """Run the web service on a free loopback port; stopping it takes one second.

        Raises:
            ResourceBusy: it does not start.
        """
        with of_the_service("starting the web service", self._index):
            self._manager.start_web_service()
        try:
            if not self._manager.urls:
                raise ResourceBusy("Foundry Local's web service has no address after its start")
            yield Endpoint(self._manager.urls[0])
        finally:
            with of_the_service("stopping the web service", self._index):
                self._manager.stop_web_service()


class LoadedModel:
    """A model in memory. Every request is a session of its own: sessions remember their turns."""

    def __init__(self, model: Any, model_id: str, index: Path) -> None:
        self._model = model
        self._model_id = model_id
        self._index = index

    def prompt_tokens(self, messages: Sequence[Message]) -> int:
        """Count the tokens of a conversation through the model's real chat template."""
        with self._request(messages, max_tokens=1) as (session, request):
            return int(session.preflight_request(request).prompt_tokens)

    def token_room(self, messages: Sequence[Message]) -> int:
        """Count the tokens that the context leaves for an answer; 0 or less when there is none."""
        with self._request(messages, max_tokens=1) as (session, request):
            budget = session.preflight_request(request)
            return int(budget.context_limit_tokens) - int(budget.prompt_tokens)

    def ask(self, messages: Sequence[Message], *, max_tokens: int) -> Reply:
        """Answer a conversation greedily, in one piece."""
        sdk = _sdk()
        with (
            self._request(messages, max_tokens) as (session, request),
            session.process_request(request) as response,
        ):
            # The items are messages whose parts hold the text; the SDK's README has it wrong.
            parts = [part for item in response for part in item.parts]
            text = "".join(part.text for part in parts if isinstance(part, sdk.TextItem))
            return Reply(text, stopped=response.finish_reason == sdk.FinishReason.STOP)

    def stream(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float = 0.0
    ) -> Iterator[str]:
        """Answer a conversation piece by piece; leaving the loop early cancels the rest."""
        sdk = _sdk()
        with self._request(messages, max_tokens, temperature) as (session, request):
            session.set_streaming(True)
            with session.process_streaming_request(request) as pieces:
                for piece in pieces:
                    if isinstance(piece, sdk.TextItem):
                        yield piece.text

    @contextmanager
    def _request(
        self, messages: Sequence[Message], max_tokens: int, temperature: float = 0.0
    ) -> Iterator[tuple[Any, Any]]:
        sdk = _sdk()
        # Both always sent: the defaults are sampling, and 2,048 tokens, which fails every request
        # to a model whose context is not larger than that.
        search = sdk.SearchOptions(temperature=temperature, max_output_tokens=max_tokens)
        with ExitStack() as stack:
            stack.enter_context(translated(f"asking {self._model_id}", self._index))
            session = stack.enter_context(sdk.ChatSession(self._model))
            session.set_options(sdk.RequestOptions(search=search))
            request = stack.enter_context(sdk.Request())
            for message in messages:
                request.add_item(_item(message))
            yield session, request


def _sdk() -> Any:
    os.environ.update(
        {key: QUIET_ENVIRONMENT[key] for key in ("CI", "ORT_TELEMETRY_DISABLED", "DO_NOT_TRACK")}
    )
    try:
        import foundry_local_sdk
    except (ImportError, OSError) as problem:
        raise ToolMissing(
            f"the Foundry Local runtime cannot be loaded: {problem}",
            expected="foundry-local-sdk 2.2.1",
            next_step="install Ingot again on Linux x64, Windows or macOS",
        ) from problem
    return foundry_local_sdk


def _entry(model: Any) -> RegisteredModel:
    info = model.info
    return RegisteredModel(
        model_id=info.id,
        version=info.version,
        digest=info.get_string_property(DIGEST_PROPERTY),
        folder=Path(model.get_path()),
        is_cached=model.is_cached,
    )


def _item(message: Message) -> Any:
    sdk = _sdk()
    try:
        message.content.encode()
    except UnicodeEncodeError as problem:
        raise InputError(f"half of a surrogate pair in a message: {problem}") from problem
    if "\x00" in message.content:
        # Measured: the web service tokenises what stands before it, and says nothing.
        raise InputError("U+0000 in a message: the runtime silently cuts texts there")
    return sdk.MessageItem(sdk.MessageRole[message.role.upper()], message.content)
