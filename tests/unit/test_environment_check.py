"""Each thing that can be wrong with a machine is found, named and told apart from a nuisance."""

from __future__ import annotations

import dataclasses
import os
import textwrap
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from tasks.core.errors import ChildKilled, ChildTimedOut, EnvironmentUnfit, ToolMissing
from tasks.core.memory import Memory
from tasks.core.records import Environment, PackageVersion
from tasks.core.settings import Settings
from tasks.environment import check
from tasks.environment.check import (
    FoundryStatus,
    Machine,
    check_environment,
    find_problems,
    find_warnings,
    in_one_line,
    machine_class,
    nearest_existing,
    probe_foundry,
    require_fit_environment,
)
from tasks.environment.cpu import Cpu, name_features, parse_linux_cpuinfo
from tasks.environment.packages import compare_packages, parse_pins, read_pins

GIB = 1024**3
PYTHON = SpecifierSet(">=3.11")
UP = FoundryStatus("2.2.1", "started")
RIGHT = PackageVersion(name="onnxruntime", installed="1.31.0", pinned="==1.31.0", matches=True)
WRONG = PackageVersion(name="onnxruntime", installed="1.30.0", pinned="==1.31.0", matches=False)
ABSENT = PackageVersion(name="olive-ai", installed=None, pinned=">=0.13.0,<0.14", matches=False)

GOOD = Machine(
    python="3.11.7",
    pointer_bits=64,
    cpu=Cpu("Xeon", "x86_64", ["AVX2", "AVX512F", "AVX512_VNNI"], 2, 2, 0.5),
    memory=Memory(24 * GIB, 20 * GIB),
    home_parent=Path("/home"),
    home_writable=True,
    disk_free_bytes=100 * GIB,
)


def machine(**changes: object) -> Machine:
    return dataclasses.replace(GOOD, **changes)


def cpu(**changes: object) -> Cpu:
    return dataclasses.replace(GOOD.cpu, **changes)


def environment(**changes: object) -> Environment:
    fields: dict[str, object] = {
        "python": "3.11.7",
        "platform": "Linux",
        "cpu_model": "Xeon",
        "cpu_features": ["AVX2", "AVX512_VNNI"],
        "logical_cores": 2,
        "physical_cores": 2,
        "ram_total_bytes": 24 * GIB,
        "ram_available_bytes": 20 * GIB,
        "disk_free_bytes": 100 * GIB,
        "packages": [RIGHT],
        "foundry_version": "2.2.1",
        "foundry_detail": "started",
        "machine_class": "0" * 64,
        "problems": [],
        "warnings": [],
    }
    return Environment.model_validate(fields | changes)


def test_good_machine_has_neither_problems_nor_warnings() -> None:
    assert find_problems(GOOD, PYTHON, [RIGHT], UP) == []
    assert find_warnings(GOOD) == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (machine(python="3.10.14"), "Python 3.10.14 runs, >=3.11 is needed"),
        (machine(pointer_bits=32), "a 32-bit Python"),
        (machine(cpu=cpu(features=["AVX512_VNNI"])), "has no AVX2"),
        (machine(home_writable=False), "no folder that can be written to"),
    ],
)
def test_fault_of_the_machine_is_a_problem(fault: Machine, words: str) -> None:
    (problem,) = find_problems(fault, PYTHON, [RIGHT], UP)
    assert words in problem


@pytest.mark.parametrize(
    ("package", "words"),
    [
        (WRONG, "onnxruntime 1.30.0 is installed, ==1.31.0 is needed"),
        (ABSENT, "olive-ai is not installed, olive-ai>=0.13.0,<0.14 is needed"),
    ],
)
def test_fault_of_a_package_is_a_problem(package: PackageVersion, words: str) -> None:
    assert find_problems(GOOD, PYTHON, [RIGHT, package], UP) == [words]


def test_arm_needs_no_avx2() -> None:
    arm = machine(cpu=cpu(machine="arm64", features=["NEON", "DOTPROD"]))
    assert find_problems(arm, PYTHON, [RIGHT], UP) == []
    assert find_warnings(arm) == []


@pytest.mark.parametrize(
    ("nuisance", "words"),
    [
        (machine(cpu=cpu(features=["AVX2"])), "no VNNI"),
        (machine(cpu=cpu(machine="aarch64", features=["NEON"])), "no DOTPROD"),
        (machine(memory=Memory(24 * GIB, 2 * GIB)), "only 2.0 GiB of memory"),
        (machine(disk_free_bytes=3 * GIB), "only 3.0 GiB are free"),
        (machine(cpu=cpu(load_average=7.25)), "load average 7.2 on 2 cores"),
    ],
)
def test_nuisance_is_a_warning_and_no_problem(nuisance: Machine, words: str) -> None:
    (warning,) = find_warnings(nuisance)
    assert words in warning
    assert find_problems(nuisance, PYTHON, [RIGHT], UP) == []


def test_fit_environment_passes() -> None:
    require_fit_environment(environment(warnings=["slow"]))


def test_wrong_package_is_a_missing_tool_with_the_command_that_mends_it() -> None:
    unfit = environment(packages=[WRONG, ABSENT], problems=["a", "b"])
    with pytest.raises(ToolMissing, match="a; b") as caught:
        require_fit_environment(unfit)
    assert 'pip install "onnxruntime==1.31.0" "olive-ai>=0.13.0,<0.14"' in caught.value.next_step


def test_silent_foundry_is_a_missing_tool() -> None:
    unfit = environment(foundry_version=None, problems=["Foundry Local does not start: x"])
    with pytest.raises(ToolMissing, match="does not start") as caught:
        require_fit_environment(unfit)
    assert "foundry-local-sdk" in caught.value.next_step


def test_unfit_machine_is_no_missing_tool() -> None:
    with pytest.raises(EnvironmentUnfit, match="no AVX2") as caught:
        require_fit_environment(environment(problems=["the CPU has no AVX2"]))
    assert not isinstance(caught.value, ToolMissing)
    assert caught.value.next_step


def test_one_line_names_what_matters() -> None:
    line = in_one_line(environment())
    assert line == (
        "Xeon, 2 cores with AVX512_VNNI, 20.0 of 24.0 GiB RAM free, 100 GiB disk free, "
        "Foundry Local 2.2.1"
    )


def test_pins_are_those_of_pyproject_and_extras_are_left_out() -> None:
    names = {requirement.name for requirement in read_pins().packages}
    assert {"prefect", "olive-ai", "onnxruntime", "foundry-local-sdk"} <= names
    assert not {"pytest", "ruff", "mypy"} & names


def test_pins_without_pyproject_or_distribution_are_a_missing_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.environment.packages.DISTRIBUTION", "no-such-distribution")
    with pytest.raises(ToolMissing, match="which packages are needed"):
        read_pins(tmp_path)


def test_pins_of_an_installed_wheel_come_from_its_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = tmp_path / "ingot_planted-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: ingot-planted\nVersion: 1.0\nRequires-Python: >=3.11\n"
        'Requires-Dist: olive-ai<0.14,>=0.13.0\nRequires-Dist: pytest; extra == "dev"\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("tasks.environment.packages.DISTRIBUTION", "ingot-planted")
    pins = read_pins(tmp_path)
    assert [str(item) for item in pins.packages] == ["olive-ai<0.14,>=0.13.0"]
    assert str(pins.python) == ">=3.11"


def test_versions_are_compared_with_the_pins() -> None:
    pins = parse_pins(
        ">=3.11", ["a>=1,<2", "b==1.0", "c==1.0", "d>=1", 'e>=1; sys_platform == "nowhere"']
    )
    installed = {"a": "2.0", "b": "1.0+cpu", "c": "1.0.post1"}
    found = compare_packages(pins, installed=installed.get)
    assert {item.name: item.matches for item in found} == {
        "a": False,
        "b": True,
        "c": False,
        "d": False,
    }


def test_x86_flags_of_linux_are_named() -> None:
    text = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2 avx512_vnni avx_vnni\n\n"
    model, flags = parse_linux_cpuinfo(text + text)
    assert model == "AMD EPYC"
    assert name_features(flags, "x86_64", "linux") == ["AVX2", "AVX_VNNI", "AVX512_VNNI"]


def test_arm_flags_of_linux_are_named() -> None:
    text = (
        "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n"
        "CPU implementer\t: 0x41\nCPU part\t: 0xd40\n"
    )
    model, flags = parse_linux_cpuinfo(text)
    assert model == "ARM implementer 0x41 part 0xd40"
    assert name_features(flags, "aarch64", "linux") == ["NEON", "DOTPROD", "I8MM"]


def test_arm_without_flags_has_what_its_system_guarantees() -> None:
    assert name_features([], "arm64", "darwin") == ["NEON", "DOTPROD"]
    assert name_features([], "arm64", "win32") == ["NEON"]


def test_flags_of_py_cpuinfo_are_named_too() -> None:
    assert name_features(["avx512vnni", "avx2"], "amd64", "win32") == ["AVX2", "AVX512_VNNI"]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "other"},
        {"features": ["AVX2"]},
        {"logical_cores": 4},
        {"machine": "arm64"},
    ],
)
def test_machine_class_changes_with_what_decides_speed(changes: dict[str, object]) -> None:
    assert machine_class(cpu(**changes), [RIGHT]) != machine_class(GOOD.cpu, [RIGHT])


def test_machine_class_knows_the_runtime_and_not_the_load() -> None:
    assert machine_class(GOOD.cpu, [WRONG]) != machine_class(GOOD.cpu, [RIGHT])
    assert machine_class(GOOD.cpu, [RIGHT, ABSENT]) == machine_class(GOOD.cpu, [RIGHT])
    assert machine_class(cpu(load_average=9.0), [RIGHT]) == machine_class(GOOD.cpu, [RIGHT])


def test_nearest_existing_folder_is_found(tmp_path: Path) -> None:
    assert nearest_existing(tmp_path / "a" / "b") == tmp_path
    assert nearest_existing(tmp_path) == tmp_path


def test_home_below_a_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = check.read_machine(Settings(home=tmp_path / "file" / "home"))
    assert not found.home_writable


def plant_foundry(folder: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put another foundry_local_sdk in front of the installed one, for child processes."""
    (folder / "foundry_local_sdk.py").write_text(textwrap.dedent(source))
    here = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), here]))


def test_runtime_that_is_absent_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant_foundry(tmp_path, "raise ImportError('libfoundry_local.so not found')", monkeypatch)
    status = probe_foundry()
    assert status.version is None
    assert "libfoundry_local.so not found" in status.detail
    assert "Traceback" not in status.detail


def test_probe_that_is_killed_says_nothing_about_the_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_foundry(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", monkeypatch)
    with pytest.raises(ChildKilled, match=r"could not be tried.*SIGKILL") as caught:
        check_environment(Settings(home=tmp_path / "home"))
    assert "probe.log" not in str(caught.value)  # gone with the temporary folder


def test_probe_that_hangs_says_nothing_about_the_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_foundry(tmp_path, "import time; time.sleep(600)", monkeypatch)
    with pytest.raises(ChildTimedOut, match="was stopped after"):
        probe_foundry(deadline_s=2.0)


def test_failing_runtime_is_a_problem_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_foundry(tmp_path, "raise OSError('GLIBC_2.38 not found')", monkeypatch)
    found = check_environment(Settings(home=tmp_path / "home"))
    assert found.foundry_version is None
    assert any("GLIBC_2.38 not found" in problem for problem in found.problems)
    with pytest.raises(ToolMissing):
        require_fit_environment(found)
