"""llama.cpp is built for the processor that is there, and what it lacks is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.checkpoints import SHAPES, checkpoint_of, place_of
from benchmarks.decode import one_test
from benchmarks.peers import cpu_options, llama_cpp
from benchmarks.places import Work
from benchmarks.records import NotMeasured

AVX2 = ["sse4_2", "avx", "avx2", "bmi2", "fma", "f16c"]
AVX512 = [*AVX2, "avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"]


def test_processor_gets_what_it_has() -> None:
    assert cpu_options(AVX2)["GGML_AVX2"] == "ON"
    assert cpu_options(AVX2)["GGML_AVX512"] == "OFF"
    assert cpu_options(AVX512)["GGML_AVX512_VNNI"] == "ON"


def test_half_of_avx512_is_none() -> None:
    half = [flag for flag in AVX512 if flag != "avx512vl"]
    found = cpu_options(half)
    assert found["GGML_AVX512"] == found["GGML_AVX512_VNNI"] == "OFF"


def test_amx_is_never_asked_for() -> None:
    assert not any("AMX" in option for option in cpu_options([*AVX512, "amx_int8", "amx_tile"]))


def test_without_cmake_nothing_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotMeasured, match="no cmake"):
        llama_cpp(Work(tmp_path / "work"))
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("rows", [0, 2])
def test_only_one_row_is_a_result(rows: int) -> None:
    with pytest.raises(NotMeasured, match=f"{rows} rows"):
        one_test(json.dumps([{"avg_ts": 1.0}] * rows))


@pytest.mark.parametrize("size", SHAPES)
def test_shape_has_the_parameters_that_it_is_named_after(size: float) -> None:
    assert SHAPES[size].parameters / 1e9 == pytest.approx(size, rel=0.04)


def test_shape_of_half_a_billion_is_qwens() -> None:
    assert SHAPES[0.5].parameters == 494_032_768


def test_every_size_has_files_of_its_own(tmp_path: Path) -> None:
    places = [place_of(size, Work(tmp_path)) for size in SHAPES]
    assert len({place.folder for place in places}) == len(SHAPES)
    assert len({place.record for place in places}) == len(SHAPES)


def test_size_without_a_shape_is_not_measured(tmp_path: Path) -> None:
    with pytest.raises(NotMeasured, match="no shape of 7"):
        checkpoint_of(7.0, Work(tmp_path))
