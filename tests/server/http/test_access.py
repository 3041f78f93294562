"""No key, no answer: every route with every kind of wrong key, and the page that tells of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from benchmarks.fuzz.world import exchange, new_world
from tests.server.http.access import OTHERS, OWNERS, PAGE, PUBLIC, SECRET, WRONG, Findings, Trial, page, run

pytestmark = pytest.mark.row(213)


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return asyncio.run(run(tmp_path_factory.mktemp("access")))


@pytest.fixture(scope="module")
def closed(findings: Findings) -> list[Trial]:
    """The routes that need a key."""
    return [trial for trial in findings.trials if (trial.method, trial.route) not in PUBLIC]


def test_the_page_tells_what_is_answered(findings: Findings) -> None:
    written = "written by `python -m tests.server.http.access`"
    assert PAGE.read_text() == page(findings.trials), f"{PAGE.name} is {written}"


def test_the_trials_are_requests_that_their_owner_gets_an_answer_to(findings: Findings, closed: list[Trial]) -> None:
    assert len(closed) > 45
    for trial in closed:
        # 400 is what the protocol knows and the service does not serve.
        assert trial.answers[OWNERS.label].status in (200, 204, 400), trial.route
    assert sum(trial.answers[OWNERS.label].cell in ("200", "204") for trial in closed) > 35
    assert any(SECRET.encode() in answer.body for answer in findings.before)


def test_a_wrong_key_gets_the_same_refusal_everywhere(closed: list[Trial]) -> None:
    for credential in WRONG:
        answers = {trial.answers[credential.label].told for trial in closed}
        assert len(answers) == 1, (credential.label, answers)
        [answer] = answers
        assert answer.startswith("401 "), (credential.label, answer)


def test_no_answer_is_the_services_fault(findings: Findings) -> None:
    for trial in findings.trials:
        for label, answer in [*trial.answers.items(), ("missing", trial.missing), ("again", trial.again)]:
            assert answer.status < 500, (trial.route, label, answer)


def test_another_owner_is_not_told_whether_an_id_exists(closed: list[Trial]) -> None:
    for trial in closed:
        for credential in OTHERS:
            assert trial.answers[credential.label].told == trial.missing.told, (trial.route, credential.label)


def test_another_owner_who_repeats_a_request_gets_nothing_of_its_answer(closed: list[Trial]) -> None:
    for trial in closed:
        assert trial.again.cell == trial.missing.cell, trial.route


def test_nothing_of_the_owners_is_in_an_answer_to_another(findings: Findings) -> None:
    hidden = [SECRET, "tenant", *(one for one in findings.ids if len(one) > 20)]
    assert len(hidden) > 5
    for trial in findings.trials:
        # To a request that does not hold them itself.
        answer = trial.missing.body + trial.missing.outcome
        for one in hidden:
            assert one.encode() not in answer, (trial.route, one)


def test_nothing_of_the_owners_has_changed(findings: Findings) -> None:
    assert [answer.body for answer in findings.before] == [answer.body for answer in findings.after]


def test_a_key_is_looked_at_before_anything_else(tmp_path: Path) -> None:
    """Paths, queries and bodies that cannot be read, and methods that no route has: nothing is told of them."""

    async def answers() -> dict[tuple[str, str], int]:
        async with new_world(tmp_path) as world:
            found: dict[tuple[str, str], int] = {}
            for method, route in world.routes():
                path = route.replace("{kind}", "no-kind").replace("{", "").replace("}", "")
                headers = [(b"content-type", b"text/x-odd"), (b"content-encoding", b"zstd")]
                found[method, route], _ = await exchange(world.app, method, path, b"limit=x&model=", headers, b"{")
                for other in {"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"}:
                    if (other, route) not in world.routes():
                        status, _ = await exchange(world.app, other, path, b"", [], b"")
                        # Two routes may fit one path; then the other one asks for its key.
                        assert status in (401, 405), (other, route, status)
            for path in ("/", "/docs", "/redoc", "/openapi.json", "/api/v1", "/api/v1/../metrics", "/static/x"):
                assert (await exchange(world.app, "GET", path, b"", [], b""))[0] == 404, path
            return found

    for route, status in asyncio.run(answers()).items():
        assert status == (200 if route in PUBLIC else 401), route
