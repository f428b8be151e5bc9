"""Installed packages against the pins, which are written down in pyproject.toml and nowhere else.

Compares versions; whether a package works is for the runs on the real tools to find out.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tasks.core.errors import ToolMissing
from tasks.core.records import PackageVersion

DISTRIBUTION = "ingot"
_CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Pins:
    """What the project declares: versions of Python and of each package, extras left out."""

    python: SpecifierSet
    packages: list[Requirement]


def read_pins(checkout: Path = _CHECKOUT) -> Pins:
    """Read the declared versions.

    From pyproject.toml beside the packages; an installed wheel has none there and carries the
    same lines as metadata. The file goes first because the metadata of an editable install is as
    old as the install.

    Raises:
        ToolMissing: neither is there.
    """
    file = checkout / "pyproject.toml"
    if file.is_file():
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        return parse_pins(project["requires-python"], project["dependencies"])
    try:
        about = metadata.metadata(DISTRIBUTION)
    except metadata.PackageNotFoundError as problem:
        raise ToolMissing(
            f"neither {file} nor an installed distribution {DISTRIBUTION} says which packages "
            "are needed",
            next_step="run from a checkout, or install with `pip install .`",
        ) from problem
    return parse_pins(about["Requires-Python"], metadata.requires(DISTRIBUTION) or [])


def parse_pins(python: str, lines: list[str]) -> Pins:
    """Parse requirement lines; those for another platform or for an extra are left out."""
    required = [Requirement(line) for line in lines]
    return Pins(
        SpecifierSet(python),
        [item for item in required if not item.marker or item.marker.evaluate({"extra": ""})],
    )


def installed_version(name: str) -> str | None:
    """Give the version of an installed distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def compare_packages(
    pins: Pins, *, installed: Callable[[str], str | None] = installed_version
) -> list[PackageVersion]:
    """Hold each pinned package against what is installed, in the order of the pins."""
    return [_compare(requirement, installed(requirement.name)) for requirement in pins.packages]


def _compare(requirement: Requirement, version: str | None) -> PackageVersion:
    return PackageVersion(
        name=requirement.name,
        installed=version,
        pinned=str(requirement.specifier),
        matches=version is not None and requirement.specifier.contains(version, prereleases=True),
    )
