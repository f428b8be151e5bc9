"""The published JSON schema of metrics.json, made from the records that are written.

`python -m tasks.report.schema` writes it again after a record has changed; a test compares the
committed file with the records. Knows no run.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from tasks.report.metrics_json import SCHEMA, ReleaseDocument

SCHEMA_FILE = Path(__file__).with_name("metrics.schema.json")
# A name, not a place: the schema comes with Ingot and is fetched from nowhere.
_ID = f"urn:{SCHEMA.replace('.', ':').replace('/', ':')}"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SHOWN_PROBLEMS = 3


def metrics_schema() -> dict[str, Any]:
    """Give the schema of the document; a bound of an interval may be null, which is: none."""
    made = ReleaseDocument.model_json_schema(mode="serialization", by_alias=True)
    bound = {"anyOf": [{"type": "number"}, {"type": "null"}]}
    made["$defs"]["Measurement"]["properties"]["ci95"]["anyOf"][0]["prefixItems"] = [bound, bound]
    return {"$schema": _DIALECT, "$id": _ID, "title": SCHEMA, **_without_python(made)}


def schema_text() -> str:
    """Give the schema as the committed file holds it."""
    return json.dumps(metrics_schema(), indent=1, sort_keys=True) + "\n"


def problems_of(document: Any) -> list[str]:
    """Say where a document does not meet the committed schema, the first few places only."""
    found = (
        f"{error.json_path}: {error.message[:200]}" for error in _validator().iter_errors(document)
    )
    return [problem for problem, _ in zip(found, range(_SHOWN_PROBLEMS), strict=False)]


@lru_cache(maxsize=1)
def _validator() -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads(SCHEMA_FILE.read_text(encoding="utf-8")))


def _without_python(node: Any) -> Any:
    """Take out what says nothing: the format `path`, and titles that repeat a name."""
    if isinstance(node, dict):
        return {
            key: _without_python(value)
            for key, value in node.items()
            if (key, value) != ("format", "path") and not (key == "title" and type(value) is str)
        }
    return [_without_python(part) for part in node] if isinstance(node, list) else node


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8", newline="\n")
