"""How to use what ships, and how to go back: commands and code with this release's own names.

Prints what to type; runs nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

from tasks.core.records import Release
from tasks.report.markup import fenced


def how_to_use(release: Release, index: Path) -> str:
    """Write the commands for both generations of Foundry Local; empty when nothing ships.

    Args:
        release: with its registration.
        index: Foundry Local's production folder; an application must name the same one.
    """
    if release.registration is None:
        return ""
    model_id = release.registration.model_id
    model = model_id.rpartition(":")[0]
    older = (
        "With the older foundry command, which finds models in folders by itself (0.8 and before; "
        "newer ones say foundry run). From its documentation, not run by Ingot:"
    )
    return "\n\n".join(
        [
            fenced(f"ingot chat {release.name}", "sh"),
            "From an application (Python, foundry-local-sdk 2.1 or newer):",
            fenced(sdk_lines(model_id, index), "python"),
            older,
            fenced(f'foundry cache cd "{index}"\nfoundry model run {model}', "sh"),
            "Back to the champion before this one, where there was one:",
            fenced(f"ingot rollback {release.name}", "sh"),
        ]
    )


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
