"""The page stands alone, and nobody's text can become its markup; the plots are tested for real."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from tasks.core.records import Evidence, Measurement, Release
from tasks.report.html.drawing import Material
from tasks.report.html.page import page_of, visible
from tasks.report.html.plots import Plot
from tasks.report.load import Run, load_run
from tasks.report.metrics_json import metrics_json
from tests.golden.sample_frames import sample_frames, write_sample_run
from tests.golden.sample_release import INT4, INT8, sample_dossier

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;"
ALLOWED_HREF = re.compile(r"#[a-z0-9-]+")


class Tags(HTMLParser):
    """Collects tags, their attributes and ids."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def values(self, name: str) -> Iterator[str]:
        return (value for found, value in self.attributes if found == name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample_run(tmp_path_factory.mktemp("page") / "run")


def section_of(text: str, name: str, following: str) -> str:
    return text[text.index(f'id="{name}"') : text.index(f'id="{following}"')]


def page(run: Run) -> str:
    return page_of(Material(run), [])


@pytest.fixture(scope="module")
def sample(folder: Path) -> str:
    return page(load_run(folder))


def changed(folder: Path, **changes: object) -> Run:
    """Give the sample run with a changed release."""
    run = load_run(folder)
    release = run.release.model_copy(update=changes)
    return Run(folder, run.document.model_copy(update={"release": release}))


def test_page_loads_nothing_and_runs_nothing(sample: str) -> None:
    found = Tags(sample)
    assert not found.tags & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    assert not {name for name, _ in found.attributes if name.startswith("on")}
    assert all(ALLOWED_HREF.fullmatch(href) for href in found.values("href"))
    assert not re.search(r"url\(|@import|http-equiv=.refresh", sample)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in sample


def test_every_link_leads_to_a_place_on_the_page(sample: str) -> None:
    found = Tags(sample)
    ids = list(found.values("id"))
    assert len(ids) == len(set(ids))
    assert {href[1:] for href in found.values("href")} <= set(ids)


def test_verdict_comes_before_everything_else(sample: str) -> None:
    text = sample.split("<body>")[1]
    places = [text.index(words) for words in ("INT8 ships</h1>", "fails a gate", "Variants side")]
    assert places == sorted(places)


def test_release_without_a_champion_says_what_to_try_on_its_first_screen(folder: Path) -> None:
    judgement = load_run(folder).release.judgement.model_copy(
        update={"champion": None, "advice": ["rebuild with the profile quality"]}
    )
    found = page(changed(folder, judgement=judgement, registration=None))
    first_screen = found[: found.index("<nav")]
    assert "Nothing ships</h1>" in first_screen
    assert "rebuild with the profile quality" in first_screen
    assert 'id="use"' not in found


def test_every_gate_is_on_the_page_failed_ones_unfolded(sample: str, folder: Path) -> None:
    section = section_of(sample, "gates", "controls")
    unfolded = re.sub(r"<details>.*?</details>", "", section, flags=re.DOTALL)
    for gate in load_run(folder).gates:
        assert f'<th scope="row">{gate.gate}<' in section
    assert re.findall(r'<th scope="row">(\w+)<', unfolded) == ["flip_rate", "answers_delta"]


def test_every_figure_has_its_interval_its_n_and_a_method_in_the_list(sample: str) -> None:
    assert '16.0\N{NO-BREAK SPACE}% <span class="interval">[13.0, 19.0]</span>' in sample
    assert 'title="n = 400; paired over questions"' in sample
    listed = sample.split('<ol class="methods')[1]
    assert "answers.flip_rate (n = 400)" in listed
    numbers = {int(number) for number in re.findall(r'href="#method-(\d+)"', sample)}
    assert numbers == set(range(1, listed.count('id="method-') + 1))


def test_what_is_missing_says_so_with_the_reason(sample: str) -> None:
    section = section_of(sample, "unknown", "figures")
    assert "INT8: speed.decode_tokens_per_s: the machine was too busy" in section
    inapplicable = section.split("Does not apply")[1]
    assert "INT4, INT8: guided.invalid: no question asks for a schema" in inapplicable


def test_worst_changed_answers_stand_side_by_side(sample: str) -> None:
    section = section_of(sample, "changed", "categories")
    assert "INT4: the 5 worst of 7 that turned from right to wrong" in section
    assert section.count("INT4, wrong") == 5
    pair = section.split('class="pair"')[1]
    assert pair.index("light_on") < pair.index("light_off")


def test_largest_divergence_comes_first_among_the_changed(folder: Path, tmp_path: Path) -> None:
    kld = sample_frames()["kld"]
    worst = (kld["question_id"] == "q-006") & (kld["variant_id"] == INT4)
    run = load_run(write_sample_run(tmp_path / "run", kld=kld.assign(kld=worst * 9.0)))
    assert re.findall(r"q-\d{3}", page(run).split('class="example"')[1])[0] == "q-006"


def test_questions_that_are_gone_are_missed_in_words(sample: str) -> None:
    assert "The questions&#39; texts are not at hand: cannot read the questions" in sample


def test_frame_that_is_not_there_leaves_its_section_with_a_reason(tmp_path: Path) -> None:
    found = page(load_run(write_sample_run(tmp_path / "run", outputs=None, categories=None)))
    assert "Not measured: this run has no rows `outputs`" in found
    assert "Not measured: this run has no rows `categories`" in found


def test_frame_of_another_shape_stops_no_page(tmp_path: Path) -> None:
    odd = pd.DataFrame({"variant_id": [INT8], "category": [None], "n": ["many"], "right": ["x"],
                        "right_low": [0], "right_high": [1]})  # fmt: skip
    found = page(load_run(write_sample_run(tmp_path / "run", categories=odd)))
    assert "Not measured: could not be made: " in found


def hostile_release(release: Release) -> dict[str, object]:
    assert release.registration is not None
    measured = Measurement(value=1.0, ci95=(0.5, 1.5), unit=HOSTILE, method=HOSTILE)
    return {
        "name": HOSTILE,
        "failures": {"fp16": HOSTILE},
        "metrics": {d: {**of, HOSTILE: measured} for d, of in release.metrics.items()},
        "registration": release.registration.model_copy(
            update={"answer": HOSTILE, "question": HOSTILE, "model_id": HOSTILE}
        ),
        "judgement": release.judgement.model_copy(update={"reason": HOSTILE, "advice": [HOSTILE]}),
        "checkpoint": release.checkpoint.model_copy(update={"family": HOSTILE}),
    }


def test_text_of_others_stays_text(folder: Path, tmp_path: Path) -> None:
    outputs = sample_frames()["outputs"].assign(text=HOSTILE, category=HOSTILE)
    outputs["question_id"] = outputs["question_id"] + HOSTILE
    write_sample_run(tmp_path / "run", outputs=outputs)
    run = changed(tmp_path / "run", **hostile_release(load_run(folder).release))
    noted = [Evidence(suite=HOSTILE, subject=INT4, metrics={}, notes=[HOSTILE])]
    run = Run(run.folder, run.document.model_copy(update={"evidence": noted}))
    found = Tags(page(run))
    assert not found.tags & {"script", "img"}
    assert "onerror" not in dict(found.attributes)
    assert page(run).count("&lt;script&gt;") > 20


def test_reason_of_a_plot_that_failed_is_text_too(folder: Path) -> None:
    failed = Plot(name="size", title="t", caption="c", why_not=HOSTILE)
    found = page_of(Material(load_run(folder)), [failed])
    assert "<script" not in found


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x00b\x1b[31m", "a␀b␛[31m"),
        ("tab\tline\nnext", "tab␉line\nnext"),
        ("user\u202egnp.exe", "user⟨U+202E⟩gnp.exe"),
        ("zero\u200bwidth\ufeff", "zero⟨U+200B⟩width⟨U+FEFF⟩"),
        ("half \ud800", "half ⟨U+D800⟩"),
        ("\x7f\x9b", "␡⟨U+009B⟩"),
        ("é 日本 👋 naïve", "é 日本 👋 naïve"),
        ("thin\u00a0space", "thin\u00a0space"),
    ],
)
def test_characters_that_hide_are_shown(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_lone_surrogate_in_an_answer_does_not_stop_the_page(tmp_path: Path) -> None:
    outputs = sample_frames()["outputs"].assign(text="null \x00 and \u202e turned")
    found = page(load_run(write_sample_run(tmp_path / "run", outputs=outputs)))
    assert "null ␀ and ⟨U+202E⟩ turned" in found
    found.encode("utf-8")


def test_same_run_gives_the_same_page(folder: Path, sample: str) -> None:
    assert page(load_run(folder)) == sample


def test_sample_document_is_the_one_of_the_dossier(folder: Path) -> None:
    written = (folder / "metrics.json").read_text(encoding="utf-8")
    frames = {name: len(frame) for name, frame in sample_frames().items()}
    assert written == metrics_json(sample_dossier().model_copy(update={"frames": frames}))
