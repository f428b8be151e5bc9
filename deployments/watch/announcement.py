"""What the watcher tells the server: `checkpoint.landed` and `checkpoint.broken`.

The same news has the same id for ever, so that telling it twice is telling it once.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from deployments.watch.sighting import Landed, Sighting

LANDED, BROKEN = "checkpoint.landed", "checkpoint.broken"
NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")


@dataclass(frozen=True)
class Announcement:
    """One event, and what it is about.

    Attributes:
        sighting: the folder as it was when this was found out.
        name: of the model, as far as one could be made.
        digest: of the checkpoint; None for a broken one.
        has_questions: without any its release is refused, and announcing it with some is news.
    """

    event: str
    id: uuid.UUID
    resource: Mapping[str, str]
    payload: Mapping[str, str]
    sighting: Sighting
    name: str
    digest: str | None = None
    has_questions: bool = False

    @property
    def what(self) -> tuple[str | None, str, bool]:
        """Give what is announced; the same from another folder is no news."""
        return self.digest, self.name, self.has_questions

    def as_json(self) -> dict[str, object]:
        """Give the event as the server takes it."""
        return {
            "event": self.event,
            "id": str(self.id),
            "occurred": datetime.now(UTC).isoformat(),
            "resource": dict(self.resource),
            "payload": dict(self.payload),
        }


def landing_of(landed: Landed, sighting: Sighting, *, again: bool = False) -> Announcement:
    """Announce a whole checkpoint; `again` gives the news an id of its own."""
    lacking = "" if landed.has_questions else "/without questions"
    known = uuid.uuid5(NAMESPACE, f"{LANDED}/{landed.digest}/{landed.name}{lacking}")
    return Announcement(
        event=LANDED,
        id=uuid.uuid4() if again else known,
        resource=_resource(landed.digest[:16], landed.name),
        payload={"path": str(landed.path), "digest": landed.digest, "name": landed.name},
        sighting=sighting,
        name=landed.name,
        digest=landed.digest,
        has_questions=landed.has_questions,
    )


def breakage_of(sighting: Sighting, name: str, reason: str, *, again: bool = False) -> Announcement:
    """Announce a checkpoint that cannot be released as it is."""
    known = uuid.uuid5(NAMESPACE, f"{BROKEN}/{sighting.key}/{sighting.signature}")
    label = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-") or "unnamed"
    return Announcement(
        event=BROKEN,
        id=uuid.uuid4() if again else known,
        resource=_resource(label, name),
        payload={"path": sighting.key, "name": name, "reason": reason},
        sighting=sighting,
        name=name,
    )


def _resource(label: str, name: str) -> dict[str, str]:
    return {"prefect.resource.id": f"checkpoint.{label}", "prefect.resource.name": name}
