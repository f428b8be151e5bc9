"""An announcement reaches the server once, whatever becomes of the server meanwhile."""

from __future__ import annotations

from pathlib import Path

from deployments.watch.announcement import Announcement, landing_of
from deployments.watch.postman import LONGEST_DELAY_S, Outbox, Postman
from deployments.watch.sighting import Landed, Sighting
from tests.landing_scene import FakeServer


class Post:
    def __init__(self) -> None:
        self.server, self.outbox = FakeServer(), Outbox()
        self.lines: list[str] = []
        self.arrived: list[Announcement] = []
        self.postman = Postman(
            self.outbox,
            self.server,
            lambda kind, text, **_facts: self.lines.append(f"{kind} {text}"),
            self.arrived.append,
        )


def news(key: str = "/landing/a", digest: str = "d" * 64) -> Announcement:
    return landing_of(
        Landed(Path(key), "a", digest, 1, has_questions=True), Sighting(key, "a", digest)
    )


def test_it_arrives_when_the_server_has_stored_it_and_not_before() -> None:
    post = Post()
    post.outbox.put(news())
    assert post.postman.go_round(0) == 1
    assert post.postman.go_round(1) == 1
    assert not post.arrived
    post.server.store()
    assert post.postman.go_round(2) is None
    assert len(post.arrived) == len(post.server.runs) == 1


def test_server_that_is_down_is_told_of_once_and_tried_until_it_is_back() -> None:
    post = Post()
    post.server.lives = False
    post.outbox.put(news())
    delays = [post.postman.go_round(float(now)) for now in range(20)]
    assert delays[:3] == [1, 2, 4]
    assert max(delays) == LONGEST_DELAY_S
    assert len(post.lines) == 1
    post.server.lives = True
    post.postman.go_round(30)
    post.server.store()
    post.postman.go_round(31)
    assert len(post.arrived) == len(post.server.runs) == 1
    assert post.lines[1:] == ["server answers again"]


def test_server_killed_before_it_stored_the_event_gets_it_again() -> None:
    post = Post()
    post.outbox.put(news())
    post.postman.go_round(0)
    post.server.kill()
    post.postman.go_round(1)
    post.server.lives = True
    post.postman.go_round(2)
    post.server.store()
    post.postman.go_round(3)
    assert len(post.arrived) == len(post.server.runs) == 1


def test_server_killed_and_back_unseen_gets_it_again() -> None:
    post = Post()
    post.outbox.put(news())
    post.postman.go_round(0)
    post.server.kill()
    post.server.lives = True
    for now in (1, 19, 21):
        post.postman.go_round(now)
    assert len(post.server.runs) == 1


def test_what_the_server_has_stored_already_is_not_posted_again() -> None:
    post = Post()
    before = news()
    post.server.stored.add(before.id)
    post.outbox.put(before)
    assert post.postman.go_round(0) is None
    assert post.arrived == [before]
    assert post.server.runs == []


def test_server_that_takes_and_never_lists_is_believed_in_the_end() -> None:
    post = Post()
    post.outbox.put(news())
    for now in range(59):
        post.postman.go_round(now)
        assert not post.arrived
    post.postman.go_round(60)
    assert len(post.arrived) == 1
    assert len(post.lines) == 1


def test_newer_news_of_a_folder_replaces_the_older() -> None:
    post = Post()
    post.outbox.put(news(digest="a" * 64))
    post.outbox.put(news(digest="b" * 64))
    post.postman.go_round(0)
    post.server.store()
    post.postman.go_round(1)
    assert [one.digest for one in post.arrived] == ["b" * 64]


def test_id_is_of_digest_and_name_only() -> None:
    assert news("/landing/a").id == news("/elsewhere").id
    assert news(digest="a" * 64).id != news(digest="b" * 64).id
