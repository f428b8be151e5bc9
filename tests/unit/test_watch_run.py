"""The threads of the watch: none that hangs or fails keeps the others from their work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from deployments.watch.journal import Journal
from deployments.watch.lander import Lander
from deployments.watch.local import LocalPlace
from deployments.watch.postman import Outbox
from deployments.watch.run import Watch
from deployments.watch.sighting import Landed, Place, Sighting
from tasks.core.errors import DoesNotFit, IngotError, TransientFault
from tests.landing_scene import FakeServer
from tests.sample_checkpoint import write_sample_checkpoint


class PromptServer(FakeServer):
    """Stores at once."""

    def post(self, events: Sequence[dict[str, object]]) -> None:
        super().post(events)
        self.store()


class Running:
    """A watch of folders that ends by itself."""

    def __init__(self, tmp_path: Path, *folders: str) -> None:
        self.lines: list[str] = []
        self.server = PromptServer()
        self.journal = Journal(tmp_path / "journal.json")
        self.places: list[LocalPlace] = []
        for folder in folders:
            root = tmp_path / folder
            write_sample_checkpoint(root / f"model-{folder}")
            self.places.append(LocalPlace(root, quiet_s=0.2, every_s=0.5))

    def once(self) -> int:
        outbox = Outbox()
        places: list[Place] = list(self.places)
        lander = Lander(journal=self.journal, outbox=outbox, say=self.say)
        self.watch = Watch(
            places,
            lander=lander,
            journal=self.journal,
            outbox=outbox,
            server=self.server,
            say=self.say,
            once=True,
        )
        return self.watch.run()

    def say(self, kind: str, text: str, **_facts: object) -> None:
        self.lines.append(f"{kind} {text}")

    def said(self, kind: str) -> list[str]:
        return [line for line in self.lines if line.startswith(f"{kind} ")]


def failing(times: int, problem: Exception, then: Callable[..., object]) -> Callable[..., object]:
    left = [problem] * times

    def call(*arguments: object) -> object:
        if left:
            raise left.pop()
        return then(*arguments)

    return call


def test_once_announces_everything_writes_it_down_and_leaves(tmp_path: Path) -> None:
    running = Running(tmp_path, "a", "b")
    assert running.once() == 0
    assert len(running.server.runs) == 2
    assert len(running.said("announced")) == 2
    assert running.watch.stragglers == []
    after = Running(tmp_path)
    after.places = running.places
    assert after.once() == 0
    assert after.server.runs == []


def test_place_that_hangs_holds_up_no_other(tmp_path: Path) -> None:
    running = Running(tmp_path, "a", "b")
    other_landed = threading.Event()
    real = running.places[0].take_in

    def hang(sighting: Sighting) -> Landed:
        assert other_landed.wait(120), "the other place was held up"
        return real(sighting)

    running.places[0].take_in = hang  # type: ignore[method-assign]
    say = running.say

    def listen(kind: str, text: str, **facts: object) -> None:
        say(kind, text, **facts)
        if kind == "announced" and "model-b" in text:
            other_landed.set()

    running.say = listen  # type: ignore[method-assign]
    assert running.once() == 0
    assert [line.split()[1] for line in running.said("announced")] == ["model-b", "model-a"]


@pytest.mark.parametrize("problem", [OSError(5, "I/O error"), ValueError("anything")])
def test_place_that_cannot_be_read_is_told_of_once_and_holds_up_no_other(
    tmp_path: Path, problem: Exception
) -> None:
    running = Running(tmp_path, "a", "b")
    broken = running.places[0]
    broken.look = failing(1000, problem, broken.look)  # type: ignore[assignment,method-assign]
    broken.every_s = 0.0
    with pytest.raises(IngotError) as caught:
        running.once()
    assert str(problem.args[-1]) in str(caught.value)
    assert len(running.said("place")) == 1
    assert any("model-b" in line for line in running.said("announced"))


def test_what_this_machine_cannot_take_ends_a_single_look_with_its_reason(tmp_path: Path) -> None:
    running = Running(tmp_path, "a")

    def full(_sighting: Sighting) -> Landed:
        raise DoesNotFit("no room")

    running.places[0].take_in = full  # type: ignore[method-assign]
    with pytest.raises(DoesNotFit, match="no room"):
        running.once()
    assert len(running.said("waiting")) == 1


def test_journal_that_cannot_be_written_is_told_of_once_and_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Running(tmp_path, "a")
    real = running.journal.save
    monkeypatch.setattr(running.journal, "save", failing(3, OSError(28, "No space left"), real))
    with pytest.raises(TransientFault, match="No space left"):
        running.once()
    assert len(running.said("journal")) == 1
    after = Running(tmp_path)
    after.places, after.server = running.places, running.server
    assert after.once() == 0
    assert len(after.server.runs) == 1


def test_failure_that_nobody_foresaw_stops_no_place(tmp_path: Path) -> None:
    running = Running(tmp_path, "a")

    def fail(_sighting: Sighting) -> Landed:
        raise KeyError("a bug")

    running.places[0].take_in = fail  # type: ignore[method-assign]
    with pytest.raises(TransientFault, match="KeyError"):
        running.once()
    assert "a bug" in running.said("waiting")[0]
