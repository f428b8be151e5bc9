"""What building children made for the steps of other recipes, until those have looked at it.

A folder under the store's `built/` for each recipe of a checkpoint, put there by one rename: a
model that was built but not yet probed, and a note of what it cost. Its own step probes the model,
publishes it and leaves only the note, which then says under which digest. Existence means complete.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from pathlib import Path

from tasks.core.child import Usage
from tasks.core.files import sync_folder, sync_tree, write_text_atomically
from tasks.core.records import Checkpoint, Digest, Precision, Recipe, Record
from tasks.core.settings import Settings
from tasks.core.store import Store
from tasks.variants.build_records import BuildResult
from tasks.variants.recipes import recipe_slug
from tasks.variants.toolchain import toolchain

MODEL, NOTE = "model", "note.json"
# A model that nobody came for: its run was given up, and another may follow for a while.
ABANDONED_S = 24 * 3600.0


class Note(Record):
    """One build of a child.

    Attributes:
        built_with: precisions of all that the child built.
        seconds, cpu_s, peak_rss_bytes: of the child.
        digest: once published; until then the model lies beside the note.
    """

    built: BuildResult
    built_with: list[Precision]
    seconds: float
    cpu_s: float
    peak_rss_bytes: int
    digest: Digest | None = None

    @classmethod
    def of(cls, built: BuildResult, built_with: list[Precision], usage: Usage) -> Note:
        """Write down a build and its child's usage."""
        return cls(
            built=built,
            built_with=built_with,
            seconds=usage.seconds,
            cpu_s=usage.cpu_s,
            peak_rss_bytes=usage.peak_rss_bytes,
        )


class Built:
    """The builds of one checkpoint with the tools of the moment.

    Args:
        settings: say where the store is; the folder is beside its objects, so that a rename moves.
        store: that models are published in.
    """

    def __init__(self, settings: Settings, store: Store, checkpoint: Checkpoint) -> None:
        self._root = settings.store / "built"
        self._store = store
        self._of = f"{checkpoint.digest} {toolchain()}"

    def find(self, recipe: Recipe) -> Note | None:
        """Give the note of a build whose model is there, here or published."""
        folder = self._folder(recipe)
        try:
            note = Note.model_validate_json((folder / NOTE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if note.digest is not None:
            return note if self._store.is_intact(note.digest) else None
        return note if (folder / MODEL).is_dir() else None

    def model(self, recipe: Recipe, note: Note) -> Path:
        """Give where a noted model lies."""
        if note.digest is not None:
            return self._store.path(note.digest)
        return self._folder(recipe) / MODEL

    def keep(self, recipe: Recipe, note: Note, model: Path) -> None:
        """Take over a built model, moved here whole with its note."""
        staged = model.with_name(f"{model.name}-kept")
        staged.mkdir()
        model.rename(staged / MODEL)
        write_text_atomically(staged / NOTE, note.model_dump_json(indent=1))
        folder = self._folder(recipe)
        self._root.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)  # a note whose model is gone
        sync_tree(staged)  # or a power cut leaves a model that a later step takes for whole
        staged.rename(folder)
        sync_folder(self._root)

    def publish(self, recipe: Recipe, note: Note) -> Digest:
        """Publish a model that was probed; its note stays, so that no other step builds it."""
        if note.digest is not None:
            return note.digest
        folder = self._folder(recipe)
        digest = self._store.publish(folder / MODEL)
        published = note.model_copy(update={"digest": digest})
        write_text_atomically(folder / NOTE, published.model_dump_json(indent=1))
        shutil.rmtree(folder / MODEL, ignore_errors=True)  # there still where the object was
        return digest

    def forget(self, recipe: Recipe) -> None:
        """Remove a build that turned out unusable."""
        shutil.rmtree(self._folder(recipe), ignore_errors=True)

    def clear_abandoned(self) -> None:
        """Remove models that nobody came for within a day."""
        for model in self._root.glob(f"*/{MODEL}"):
            if time.time() - model.parent.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(model.parent, ignore_errors=True)

    def _folder(self, recipe: Recipe) -> Path:
        text = json.dumps([self._of, recipe.model_dump(mode="json")], sort_keys=True)
        return (
            self._root / f"{recipe_slug(recipe)}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
        )
