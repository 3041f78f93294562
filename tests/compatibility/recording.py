"""A proxy between a client and a server that writes down what goes by, with ids and times replaced by placeholders."""

from __future__ import annotations

import base64
import gzip
import re
import threading
import time
from types import TracebackType
from typing import Any

import httpx
import uvicorn
import zstandard
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.spawn import free_port
from tests.compatibility.serving import PROTOBUF
from tinsmith.types.proto import tinsmith_pb2 as pb

KEPT_HEADERS = ("accept", "content-type", "content-encoding", "retry-after")
# What a timer sends, at moments that differ from one recording to the next.
_BY_THE_CLOCK = ("/session_heartbeat", "/telemetry", "/healthz")
_METHODS = ["GET", "POST", "PUT", "DELETE"]

_ID = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|(?<![0-9a-zA-Z])[0-9a-f]{32}(?![0-9a-zA-Z])"
)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)")
# The version of whoever asks is not what is asked.
_VERSION = re.compile(r'("sdk_version":\s?)"[^"]*"')


class Recorder:
    """Forwards requests to a server and keeps both sides of each; a context manager.

    Args:
        target: URL of the server.

    Attributes:
        url: where clients are to go instead.
    """

    def __init__(self, target: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._seen: list[dict[str, Any]] = []
        self._client = httpx.AsyncClient(base_url=target, timeout=60.0)
        app = Starlette(routes=[Route("/{path:path}", self._forward, methods=_METHODS)])
        config = uvicorn.Config(app, port=port, log_level="warning", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> Recorder:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    async def _forward(self, request: Request) -> Response:
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        seen: dict[str, Any] = {"method": request.method, "path": path}
        self._seen.append(seen)
        body = await request.body()
        headers = {k: v for k, v in request.headers.items() if k not in ("host", "content-length", "connection")}
        sent = self._client.build_request(request.method, path, content=body, headers=headers)
        answer = await self._client.send(sent, stream=True)
        content = b"".join([chunk async for chunk in answer.aiter_raw()])
        await answer.aclose()
        seen["request"] = (dict(request.headers), body)
        seen["response"] = (answer.status_code, dict(answer.headers), content)
        kept = {k: v for k, v in answer.headers.items() if k not in ("content-length", "connection", "date", "server")}
        return Response(content, answer.status_code, kept)

    def exchanges(self) -> list[dict[str, Any]]:
        """Return what went by so far, in the order in which it was asked."""
        return Normaliser().exchanges([seen for seen in self._seen if "response" in seen])


class Normaliser:
    """Gives ids placeholders in the order of their appearance, and remembers what was promised under which."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}
        self._promised: dict[str, type[Message]] = {}
        self._unseeded: set[str] = set()

    def exchanges(self, seen: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return exchanges as JSON values, without those that depend on the clock."""
        timeless = [one for one in seen if not one["path"].split("?")[0].endswith(_BY_THE_CLOCK)]
        # "Ask again" comes as often as the answer takes.
        return [self._exchange(one) for one in timeless if one["response"][0] != 408]

    def _exchange(self, seen: dict[str, Any]) -> dict[str, Any]:
        sent, body = seen["request"]
        status, answered, content = seen["response"]
        message = self._message_of(seen["path"], body, content)
        draws = message is pb.SampleResponse and _ID.findall(body.decode())[0] in self._unseeded
        return {
            "method": seen["method"],
            "path": self.text(seen["path"]),
            "request": {"headers": _kept(sent), **self._body(sent, body, pb.ForwardBackwardRequest)},
            "status": status,
            "response": {"headers": _kept(answered), **self._body(answered, content, message, draws)},
        }

    def _message_of(self, path: str, body: bytes, content: bytes) -> type[Message]:
        """Note what a promise is a promise of; return what a poll may bring."""
        polls = path.endswith("/retrieve_future")
        found = _ID.search((body if polls else content).decode("latin-1"))
        if found and path.endswith("/asample"):
            self._promised[found[0]] = pb.SampleResponse
            if b'"seed"' not in body:
                self._unseeded.add(found[0])
        return self._promised.get(found[0] if found and polls else "", pb.ForwardBackwardOutput)

    def _body(
        self, headers: dict[str, str], body: bytes, message: type[Message], draws: bool = False
    ) -> dict[str, str]:
        body = _decompressed(body, headers.get("content-encoding", "identity"))
        if headers.get("content-type", "").startswith(PROTOBUF):
            try:
                parsed = message.FromString(body)
            except DecodeError:
                return {"base64": base64.b64encode(body).decode()}
            assert not UnknownFieldSet(parsed), "fields that the schema does not know"
            self._replace(parsed)
            if draws:
                _blank(parsed)
            whole = parsed.SerializeToString(deterministic=True)
            return {"message": message.DESCRIPTOR.name, "base64": base64.b64encode(whole).decode()}
        return {"text": self.text(body.decode())}

    def text(self, text: str) -> str:
        """Return a text with placeholders."""
        text = _VERSION.sub(r'\1"<version>"', _TIME.sub("<time>", text))
        return _ID.sub(lambda found: self._placeholder(found[0]), text)

    def _placeholder(self, found: str) -> str:
        return self._ids.setdefault(found, f"<id {len(self._ids) + 1}>")

    def _replace(self, message: Message) -> None:
        for field, value in message.ListFields():
            if isinstance(value, str):
                setattr(message, field.name, self.text(value))


def _blank(response: Any) -> None:
    """Blank the tokens that were drawn without a seed: they are others each time."""
    for sequence in response.sequences:
        sequence.tokens = bytes(len(sequence.tokens))
        sequence.logprobs = bytes(len(sequence.logprobs))


def _kept(headers: dict[str, str]) -> dict[str, str]:
    return {name: headers[name] for name in KEPT_HEADERS if name in headers}


def _decompressed(body: bytes, encoding: str) -> bytes:
    if encoding == "zstd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(body)
    return gzip.decompress(body) if encoding == "gzip" else body
