"""Memory is what a container leaves this process, not what the machine has."""

from __future__ import annotations

from pathlib import Path

from tasks.core.memory import Memory, bounded, control_groups

GIB = 1024**3
MACHINE = Memory(24 * GIB, 20 * GIB)


def write_group(folder: Path, limit: str, used: int, cache: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cache}\n")


def test_bound_of_a_container_counts_and_its_page_cache_does_not(tmp_path: Path) -> None:
    write_group(tmp_path, str(4 * GIB), 3 * GIB, GIB)
    assert bounded(MACHINE, tmp_path) == Memory(4 * GIB, 2 * GIB)


def test_group_without_a_bound_changes_nothing(tmp_path: Path) -> None:
    write_group(tmp_path, "max", 3 * GIB, GIB)
    assert bounded(MACHINE, tmp_path) == MACHINE
    assert bounded(MACHINE, tmp_path / "nowhere") == MACHINE


def test_groups_are_listed_outwards(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("1:name=systemd:/x\n0::/a/b\n")
    root = tmp_path / "root"
    assert control_groups(membership, root) == [root / "a" / "b", root / "a", root]
    assert control_groups(tmp_path / "nothing", root) == []
