"""How to use what ships, and how to go back: commands and code with this release's own names.

Prints what to type; runs nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

from tasks.core.records import Record, Release


class UsageStep(Record):
    """One thing to type, with what it is for; `words` is empty where it needs none."""

    words: str
    language: str
    code: str


def how_to_use(release: Release, index: Path | None) -> list[UsageStep]:
    """Give the commands for both generations of Foundry Local; none when nothing ships.

    Args:
        release: with its registration.
        index: Foundry Local's production folder; an application must name the same one. None
            when it is not known.
    """
    if release.registration is None:
        return []
    model_id = release.registration.model_id
    folder = index or Path("the foundry folder of INGOT_HOME")
    return [
        UsageStep(
            words="Ask it, from a terminal:", language="sh", code=f"ingot chat {release.name}"
        ),
        UsageStep(
            words="From an application (Python, foundry-local-sdk 2.1 or newer):",
            language="python",
            code=sdk_lines(model_id, folder),
        ),
        UsageStep(
            words="With the older foundry command, which finds models in folders by itself (0.8 "
            "and before; newer ones say foundry run). From its documentation, not run by Ingot:",
            language="sh",
            code=f'foundry cache cd "{folder}"\nfoundry model run {model_id.rpartition(":")[0]}',
        ),
        UsageStep(
            words="Back to the champion before this one, where there was one:",
            language="sh",
            code=f"ingot rollback {release.name}",
        ),
    ]


def sdk_lines(model_id: str, index: Path) -> str:
    """Write a Python program that asks the registered model one question."""
    return f"""\
from foundry_local_sdk import (
    CatalogType,
    ChatSession,
    Configuration,
    FoundryLocalManager,
    MessageItem,
    Request,
    RequestOptions,
    SearchOptions,
    TextItem,
)

configuration = Configuration(
    app_name="my-app",
    model_cache_dir={_quoted(str(index))},
)
FoundryLocalManager.initialize(configuration)
manager = FoundryLocalManager.instance
model = manager.get_catalog(CatalogType.LOCAL).get_model_variant({_quoted(model_id)})
model.load()
with ChatSession(model) as session:
    # Without these two it samples, and asks for 2,048 new tokens whatever the context length.
    search = SearchOptions(temperature=0.0, max_output_tokens=128)
    session.set_options(RequestOptions(search=search))
    with Request().add_item(MessageItem.user("...")) as request:
        with session.process_request(request) as answer:
            parts = answer.get_item(0).parts
            print("".join(part.text for part in parts if isinstance(part, TextItem)))
model.unload()
manager.close()"""


def _quoted(text: str) -> str:
    """Write a Python string literal; a Windows path keeps its backslashes."""
    return json.dumps(text, ensure_ascii=False)
