"""Every route of the app with every kind of wrong key, and the page that tells what came of it.

    python -m tests.server.http.access      # writes docs/access.md

Routes come from the app's own table, so that a new one is in the table, and on trial, by being there.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.fuzz.world import Headers, World, exchange, new_world
from tinsmith import models
from tinsmith.model_files.folder import TOKENIZER
from tinsmith.server.json_bytes import to_bytes
from tinsmith.server.store.keys import new_token

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "access.md"
PUBLIC = {("GET", "/healthz"), ("GET", "/api/v1/healthz"), ("GET", "/metrics")}
# What an owner has that stands in no request to a route: another's answer must not hold it.
SECRET = "a secret of the owner"

_UUID = re.compile(rb"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")

_HEAD = """\
# Who may ask for what

Every route of the service with every kind of wrong key, on the ids of somebody else: what is answered. Written by
`python -m tests.server.http.access`; a test computes the table again and compares, and checks besides that no refusal
tells whether an id exists, that nothing of one owner's is in an answer to another, and that nothing of it has changed.

Without a right key the answer is 401: the same for every route, id, query and body, before any of them is read. With
the key of another owner it is what that one would get for an id that nobody has: listings are the other's own, the rest
is 404, or the future of an operation that fails (`200, fails`), because a refusal would leave a hole in a model's
order. 400 is what the protocol knows and this service does not serve. The public routes tell of the service and of
nobody's work. What an owner has published others may read; that is not in this table.

"""


@dataclass(frozen=True)
class Credential:
    """A way to ask.

    Attributes:
        label: the heading of its column.
        meaning: what the page says of it.
        headers: of (owner's key, another's key, revoked key) what is sent.
        query: what is sent with the path, from the same.
    """

    label: str
    meaning: str
    headers: Callable[[Keys], Headers]
    query: Callable[[Keys], bytes] = lambda keys: b""


@dataclass(frozen=True)
class Keys:
    """The keys that there are."""

    owner: str
    other: str
    revoked: str


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        outcome: of a promise, what its future came to; empty where there is none.
    """

    status: int
    body: bytes
    outcome: bytes = b""

    @property
    def cell(self) -> str:
        """How it reads in the table."""
        return f"{self.status}, fails" if b'"error"' in self.outcome else str(self.status)

    @property
    def told(self) -> str:
        """What is told by it, whatever ids the service has just made or the request named."""
        return f"{self.status} {_UUID.sub(b'ID', self.outcome or self.body)!r}"


@dataclass
class Trial:
    """A route and its answers by the label of the credential.

    Attributes:
        missing: what the other owner gets for ids that nobody has.
        again: what the other owner gets for the request that its owner has made, and that was answered.
    """

    method: str
    route: str
    answers: dict[str, Answer] = field(default_factory=dict[str, Answer])
    missing: Answer = field(default_factory=lambda: Answer(0, b""))
    again: Answer = field(default_factory=lambda: Answer(0, b""))


@dataclass
class Findings:
    """All trials.

    Attributes:
        ids: what the owner's things are called.
        before, after: what the owner is told of his own before and after all the others have asked.
    """

    trials: list[Trial]
    ids: list[str]
    before: list[Answer]
    after: list[Answer]


def _key(value: str) -> Headers:
    return [(b"x-api-key", value.encode("latin-1"))]


def _bearer(value: str, scheme: str = "Bearer") -> Headers:
    return [(b"authorization", f"{scheme} {value}".encode("latin-1"))]


WRONG = (
    Credential("none", "no header", lambda keys: []),
    Credential("empty", "`X-API-Key:` without a value", lambda keys: _key("")),
    Credential("stub", "`tml-` and nothing more", lambda keys: _key("tml-")),
    Credential("unknown", "a well-formed key that the service never gave", lambda keys: _key(new_token())),
    Credential("revoked", "a key that was right until it was revoked", lambda keys: _key(keys.revoked)),
    Credential("part", "the right key without its last character", lambda keys: _key(keys.owner[:-1])),
    Credential("case", "the right key with its case changed", lambda keys: _key("tml-" + keys.owner[4:].swapcase())),
    Credential(
        "hash",
        "what the database holds of the right key",
        lambda keys: _key(hashlib.sha256(keys.owner.encode()).hexdigest()),
    ),
    Credential("quotes", "`' OR 1=1 --`", lambda keys: _key("' OR 1=1 --")),
    Credential("bytes", "a key with bytes beyond ASCII", lambda keys: [(b"x-api-key", b"tml-\xc3\xa9\xff\x80")]),
    Credential("long", "a key of 64 KiB (a listener refuses it sooner)", lambda keys: _key("tml-" + "a" * 65536)),
    Credential(
        "query",
        "the right key in the query string: `?api_key=`, `?X-API-Key=`",
        lambda keys: [],
        lambda keys: f"api_key={keys.owner}&X-API-Key={keys.owner}&x-api-key={keys.owner}".encode(),
    ),
    Credential("cookie", "the right key in a cookie", lambda keys: [(b"cookie", f"X-API-Key={keys.owner}".encode())]),
    Credential("scheme", "the right key under `Authorization: Basic`", lambda keys: _bearer(keys.owner, "Basic")),
    Credential("bearer", "an unknown key under `Authorization: Bearer`", lambda keys: _bearer(new_token())),
    Credential(
        "both",
        "an unknown `X-API-Key` beside the right key as `Bearer`: the first counts",
        lambda keys: _key(new_token()) + _bearer(keys.owner),
    ),
)
OTHERS = (
    Credential("other's", "the key of another owner", lambda keys: _key(keys.other)),
    Credential(
        "other's, both",
        "that as `X-API-Key`, beside the right key as `Bearer`: the first counts",
        lambda keys: _key(keys.other) + _bearer(keys.owner),
    ),
)
# Whoever reads the table sees from it that the request itself is one that is answered.
OWNERS = Credential("owner's", "the right key", lambda keys: _key(keys.owner))
CREDENTIALS = (*WRONG, *OTHERS, OWNERS)


class Trials:
    """Asks for everything with everything."""

    def __init__(self, world: World, keys: Keys) -> None:
        self._world = world
        self._keys = keys

    async def all(self) -> Findings:
        """Try every route, those without a key last."""
        routes = sorted(self._world.routes(), key=lambda one: (one in PUBLIC, one[1], one[0]))
        trials = [Trial(*route) for route in routes]
        hidden = await self._hide_something()
        findings = Findings(trials, [*self._world.ids.values(), hidden], await self._owned(hidden), [])
        for trial in trials:
            await self._without_right(trial)
        findings.after = await self._owned(hidden)
        changed = True
        for trial in trials:
            # Some end or delete what they name.
            if changed or trial.method != "GET":
                await self._world.renew()
            changed = trial.method != "GET"
            trial.answers[OWNERS.label] = await self._ask(trial, OWNERS)
            trial.again = await self._ask(trial, OTHERS[0])
        return findings

    async def _without_right(self, trial: Trial) -> None:
        for credential in (*WRONG, *OTHERS):
            trial.answers[credential.label] = await self._ask(trial, credential)
        fresh = {self._world.ids[name]: str(uuid.uuid4()) for name in ("session_id", "request_id")}
        trial.missing = await self._ask(trial, OTHERS[0], fresh)

    async def _hide_something(self) -> str:
        """Make a session that the requests do not name; return its id."""
        fields = {"tags": [SECRET], "user_metadata": {"k": SECRET}, "display_name": SECRET, "project_id": SECRET}
        answer = await self._send("POST", "/api/v1/create_session", _key(self._keys.owner), to_bytes(fields))
        return json.loads(answer.body)["session_id"]

    async def _owned(self, hidden: str) -> list[Answer]:
        """Return all that the owner is told of what he has."""
        ids = self._world.ids
        paths = [
            "sessions",
            f"sessions/{ids['session_id']}",
            f"sessions/{hidden}",
            f"samplers/{ids['sampler_id']}",
            "training_runs",
        ]
        paths += [f"training_runs/{ids['run_id']}", f"training_runs/{ids['run_id']}/checkpoints", "checkpoints"]
        return [await self._send("GET", f"/api/v1/{path}", _key(self._keys.owner)) for path in paths]

    async def _ask(self, trial: Trial, credential: Credential, swap: Mapping[str, str] | None = None) -> Answer:
        """Ask with the owner's ids, or with others in their place."""
        swap = swap or {}
        body, kind = self._body(trial.route)
        ids = {name: _swap(value.encode(), swap).decode() for name, value in self._world.ids.items()}
        parts = trial.route.split("/")
        path = "/".join(ids[part.strip("{}").removesuffix(":path")] if "{" in part else part for part in parts)
        headers = credential.headers(self._keys)
        query = b"model=tiny&" + credential.query(self._keys)
        sent = [(b"content-type", kind), *headers]
        return await self._outcome(await self._send(trial.method, path, sent, _swap(body, swap), query), headers)

    async def _outcome(self, answer: Answer, headers: Headers) -> Answer:
        """Wait for what was promised."""
        if answer.status != 200 or not answer.body.startswith(b'{"request_id"'):
            return answer
        promised = json.loads(answer.body)["request_id"]
        record = self._world.service.core.futures.find(promised)
        if record is None or not await self._world.service.core.futures.wait(record, 10.0):
            raise RuntimeError(f"{promised}: got no outcome in 10 s")
        asked = to_bytes({"request_id": promised})
        outcome = await self._send("POST", "/api/v1/retrieve_future", headers, asked)
        return Answer(answer.status, answer.body, outcome.body)

    def _body(self, route: str) -> tuple[bytes, bytes]:
        if route.endswith("/import_checkpoint"):
            line, header, data = self._world.adapter()
            return json.dumps(line).encode() + b"\n" + header + data, b"application/octet-stream"
        body = self._world.body_of(route)
        if isinstance(body, bytes):
            return body, b"application/x-protobuf"
        if route.endswith("/asample"):
            body["seq_id"] += 1  # the world has used this one
        return json.dumps(body).encode(), b"application/json"

    async def _send(self, method: str, path: str, headers: Headers, body: bytes = b"", query: bytes = b"") -> Answer:
        return Answer(*await exchange(self._world.app, method, path, query, headers, body))


def _swap(text: bytes, pairs: Mapping[str, str]) -> bytes:
    for old, new in pairs.items():
        text = text.replace(old.encode(), new.encode())
    return text


async def run(home: Path) -> Findings:
    """Start a service with two owners and a fake engine, and try every route."""
    async with new_world(home) as world:
        shutil.copy(models.path() / TOKENIZER, home)  # the fake engine's model has none
        store = world.service.keys
        keys = Keys(world.key, await store.create("somebody else", "theirs"), await store.create("tenant", "old"))
        [old] = [key for key in await store.all() if key.name == "old"]
        await store.revoke(old.id)
        return await Trials(world, keys).all()


def page(trials: Sequence[Trial]) -> str:
    """Return docs/access.md."""
    return _HEAD + "".join(line + "\n" for line in _lines(trials))


def _lines(trials: Sequence[Trial]) -> Iterator[str]:
    yield "| column | what is sent |"
    yield "|---|---|"
    for one in CREDENTIALS:
        yield f"| {one.label} | {one.meaning} |"
    yield ""
    yield f"{len(trials)} routes, {len(CREDENTIALS)} ways to ask:"
    yield ""
    yield f"| route | {' | '.join(one.label for one in CREDENTIALS)} |"
    yield "|---" * (len(CREDENTIALS) + 1) + "|"
    for trial in trials:
        cells = " | ".join(trial.answers[one.label].cell for one in CREDENTIALS)
        yield f"| `{trial.method} {trial.route}` | {cells} |"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        PAGE.write_text(page(asyncio.run(run(Path(home))).trials))
    print(f"wrote {PAGE.relative_to(ROOT)}")
