"""Whether a champion is still where it was registered, without starting Foundry Local.

Reads the index file and the sizes of the model's files; whether it answers is for `proof.py`.
"""

from __future__ import annotations

from tasks.core.settings import Settings
from tasks.foundry.ledger import Champion
from tasks.foundry.placement import ModelFolders
from tasks.foundry.runtime import newest_in_index


def is_in_place(champion: Champion, settings: Settings) -> bool:
    """Tell whether a champion is what its alias means, and has all its files.

    Only reads, so it holds no lock: what is just being changed there may be seen either way.
    """
    alias, _, version = champion.model_id.rpartition(":")
    newest = newest_in_index(settings.foundry, alias)
    if newest is None or newest.model_id != champion.model_id:
        return False
    folders = ModelFolders(settings.foundry, alias)
    is_whole = folders.holds(int(version), champion.variant)
    return is_whole and newest.folder == folders.path(int(version)).resolve()
