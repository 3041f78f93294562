"""The light tokenizer equals `transformers`' on every checkpoint, and is found where it should be."""

from __future__ import annotations

import gc
import json
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import processors
from transformers import AutoTokenizer

from tests.support.checkpoints import checkpoint, make_checkpoint
from tests.support.fakes.fake_service import FakeService
from tinsmith import SamplingParams, ServiceClient, TinsmithError, UserError, get_tokenizer
from tinsmith.client.tokenizer.tokenizer import Tokenizer
from tinsmith.client.tokenizer.tokenizer_sources import find_tokenizer, read_folder
from tinsmith.client.transport.connection import Connection
from tinsmith.client.transport.loop import background
from tinsmith.models import path as shipped
from tinsmith.settings import Settings

FOLDERS = {"tiny": shipped(), "llama": checkpoint("llama"), "qwen3": checkpoint("qwen3")}
PAIRS = {name: (get_tokenizer(str(folder)), AutoTokenizer.from_pretrained(folder)) for name, folder in FOLDERS.items()}
CHAT = [
    {"role": "user", "content": "Hi <b>&</b> 'there'\n"},
    {"role": "assistant", "content": "Hello! ✓"},
    {"role": "user", "content": "And?"},
]
TOOLS = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}]
contents = st.text(max_size=30)
chats = st.lists(contents, min_size=1, max_size=5).map(
    lambda texts: [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
)


@pytest.mark.row(58)
@given(text=st.text(max_size=60), special=st.booleans(), skip=st.booleans())
def test_text_and_ids(text: str, special: bool, skip: bool) -> None:
    for ours, theirs in PAIRS.values():
        ids = ours.encode(text, add_special_tokens=special)
        assert ids == theirs.encode(text, add_special_tokens=special)
        assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
        assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]


@given(chat=chats, prompt=st.booleans())
def test_chats(chat: list[dict[str, str]], prompt: bool) -> None:
    for ours, theirs in PAIRS.values():
        arguments = {"add_generation_prompt": prompt}
        text = ours.apply_chat_template(chat, tokenize=False, **arguments)
        assert text == theirs.apply_chat_template(chat, tokenize=False, **arguments)
        ids = theirs.apply_chat_template(chat, **arguments)["input_ids"]
        assert ours.apply_chat_template(chat, **arguments) == ids
        assert ours.apply_chat_template(chat, return_dict=True, **arguments).input_ids == ids


def test_tools_and_variables() -> None:
    ours, theirs = PAIRS["tiny"]
    calls = [*CHAT, {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}]
    for chat in (CHAT, calls, [{"role": "system", "content": "s"}, *CHAT]):
        text = ours.apply_chat_template(chat, TOOLS, tokenize=False, enable_thinking=False)
        assert text == theirs.apply_chat_template(chat, TOOLS, tokenize=False, enable_thinking=False)
    template = (
        "{{ bos_token }}{% for m in messages %}{{ m | tojson(indent=1) }}{{ strftime_now('%Y') }}{% endfor %}{{ x }}"
    )
    ours, theirs = PAIRS["llama"]
    arguments = {"tokenize": False, "chat_template": template, "x": 7}
    assert ours.apply_chat_template(CHAT, **arguments) == theirs.apply_chat_template(CHAT, **arguments)


@pytest.mark.parametrize("name", FOLDERS)
def test_facts(name: str) -> None:
    ours, theirs = PAIRS[name]
    for fact in ("bos_token", "eos_token", "pad_token", "unk_token"):
        assert getattr(ours, fact) == getattr(theirs, fact), fact
        assert getattr(ours, f"{fact}_id") == getattr(theirs, f"{fact}_id"), fact
    assert len(ours) == len(theirs)
    assert ours.vocab_size == theirs.vocab_size
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.model_max_length == theirs.model_max_length
    assert ours.chat_template == theirs.chat_template
    assert set(theirs.all_special_ids) >= set(ours.all_special_ids) >= {ours.eos_token_id, ours.pad_token_id}
    assert ours.name_or_path == str(FOLDERS[name])
    assert ours.convert_tokens_to_ids([ours.eos_token, "a"]) == theirs.convert_tokens_to_ids([ours.eos_token, "a"])
    assert ours.convert_tokens_to_ids("no such token") == theirs.convert_tokens_to_ids("no such token")
    assert ours.batch_decode([[70], [71, 72]]) == theirs.batch_decode([[70], [71, 72]])
    assert ours(["a", "bc"], return_offsets_mapping=True) == dict(theirs(["a", "bc"], return_offsets_mapping=True))
    assert ours.tokenize("ab c") == theirs.tokenize("ab c")


def test_faults_of_templates() -> None:
    tokenizer = PAIRS["tiny"][0]
    with pytest.raises(UserError, match="chat template: role: got robot"):
        tokenizer.apply_chat_template([{"role": "robot", "content": "x"}])
    with pytest.raises(UserError, match="chat template: "):
        tokenizer.apply_chat_template(CHAT, chat_template="{% for %}")
    with pytest.raises(UserError, match=r"chat template: .*unsafe"):
        tokenizer.apply_chat_template(CHAT, chat_template="{{ messages.__class__.__mro__ }}")
    with pytest.raises(UserError, match="chat_template: got None"):
        Tokenizer(Backend.from_file(str(shipped() / "tokenizer.json"))).apply_chat_template(CHAT)


def test_beginning_of_text_is_added_once(tmp_path: Path) -> None:
    """A tokenizer that adds BOS gives it to plain text, not to chats, nor to prompts that spell it out."""
    from tinsmith.client.sampling.text_sampling import encode_prompt

    backend = Backend.from_file(str(FOLDERS["llama"] / "tokenizer.json"))
    bos = "<|begin_of_text|>"
    backend.post_processor = processors.TemplateProcessing(f"{bos} $A", None, [(bos, backend.token_to_id(bos))])
    tokenizer = Tokenizer(backend, {"bos_token": {"content": bos, "special": True}}, PAIRS["llama"][0].chat_template)
    assert tokenizer.bos_token_id == backend.token_to_id(bos)
    plain = tokenizer.encode("hi")
    assert plain[0] == tokenizer.bos_token_id
    assert encode_prompt(tokenizer, "hi") == encode_prompt(tokenizer, bos + "hi") == plain
    assert tokenizer.apply_chat_template(CHAT).count(tokenizer.bos_token_id) == 1
    assert encode_prompt(tokenizer, [1, 2]) == [1, 2]


def test_older_folders(tmp_path: Path) -> None:
    """Special tokens in a file of their own; several named templates in the config."""
    (tmp_path / "tokenizer.json").write_text((FOLDERS["qwen3"] / "tokenizer.json").read_text())
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<|im_end|>"}}))
    named = [{"name": "rag", "template": "x"}, {"name": "default", "template": "{{ messages[0].content }}"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    tokenizer = read_folder(tmp_path).tokenizer("x")
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.apply_chat_template([{"role": "user", "content": "c"}], tokenize=False) == "c"


# -- where they come from ---------------------------------------------------------------------------------------------


def _answer(name: str) -> dict[str, object]:
    bundle = read_folder(FOLDERS[name])
    return {
        "tokenizer_json": bundle.tokenizer_json,
        "tokenizer_config": bundle.tokenizer_config,
        "chat_template": bundle.chat_template,
        "generation_config": {},
    }


@pytest.fixture
def served(fake: FakeService, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Connection]:
    """Connections over HTTP to `fake`, each as if of a new process."""

    def connect() -> Connection:
        connection = Connection("http://service", Settings())
        connection._http.value = httpx.AsyncClient(transport=fake)
        return connection

    return connect


@pytest.mark.row(58)
def test_the_service_s_tokenizer(fake: FakeService) -> None:
    fake.tokenizer = (200, _answer("llama"), None)
    service = ServiceClient(base_url="http://service")
    service._session.connection._http.value = httpx.AsyncClient(transport=fake)
    training = service.create_lora_training_client("tinsmith-tiny")
    name = "meta-llama/Llama-3.1-8B"
    for tokenizer in (service.get_tokenizer(name), get_tokenizer(name)):
        assert tokenizer.get_vocab() == PAIRS["llama"][0].get_vocab()
        assert tokenizer.name_or_path == name
    assert sum(path == "tokenizer" for _, path, _ in fake.seen) == 1
    assert training.get_tokenizer().get_vocab() == PAIRS["tiny"][0].get_vocab()
    service.close()


def test_cache_and_tag(fake: FakeService, served: Callable[[], Connection], caplog: pytest.LogCaptureFixture) -> None:
    """The copy on disk serves while its tag holds, and where the service is away; other services have other copies."""

    def find(connection: Connection) -> Tokenizer:
        return background().submit(find_tokenizer("some/model", connection)).result(20)

    fake.tokenizer = (200, _answer("llama"), '"v1"')
    assert len(find(served())) == len(PAIRS["llama"][0])
    tags = lambda: [h.get("if-none-match") for _, path, h in fake.seen if path == "tokenizer"]  # noqa: E731
    assert tags() == [None]
    fake.tokenizer = (304, {}, '"v1"')
    assert len(find(served())) == len(PAIRS["llama"][0])
    assert tags() == [None, '"v1"']
    fake.tokenizer = (200, _answer("qwen3"), '"v2"')
    assert find(served()).eos_token == "<|im_end|>"

    connection = served()
    connection.settings.client_retry_s = 0.01

    async def away(stage: str, request: httpx.Request) -> None:
        raise httpx.ConnectError("away", request=request)

    fake.network = away
    assert find(connection).eos_token == "<|im_end|>"
    fake.network = None
    for file in (Settings().home / "tokenizers").iterdir():
        file.write_text("{torn")
    assert find(served()).eos_token == "<|im_end|>"
    assert "is not readable" in caplog.text


def test_a_tokenizer_is_known_as_long_as_its_connection(fake: FakeService, served: Callable[[], Connection]) -> None:
    fake.tokenizer = (200, _answer("llama"), None)
    connection = served()
    first = background().submit(find_tokenizer("some/model", connection)).result(20)
    assert background().submit(find_tokenizer("some/model", connection)).result(20) is first
    gone = weakref.ref(first)
    del connection, first
    gc.collect()
    assert gone() is None


@pytest.mark.row(58)
def test_a_name_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """`TINSMITH_MODELS` names models of the embedded service, hence their tokenizers."""
    monkeypatch.setenv("TINSMITH_MODELS", f"a/b=no/where, meta-llama/Llama-3.1-8B={FOLDERS['llama']}")
    assert get_tokenizer("meta-llama/Llama-3.1-8B").get_vocab() == PAIRS["llama"][0].get_vocab()


@pytest.mark.row(58)
def test_nowhere(fake: FakeService, served: Callable[[], Connection]) -> None:
    began = time.monotonic()
    connection = served()
    with pytest.raises(TinsmithError, match=r"'no/such'.*service at http://service does not know it.*the hub: "):
        background().submit(find_tokenizer("no/such", connection)).result(10)
    fake.tokenizer = (200, {"nothing": 1}, None)
    with pytest.raises(TinsmithError, match="the answer holds none"):
        background().submit(find_tokenizer("no/other", connection)).result(10)
    assert time.monotonic() - began < 10


@pytest.mark.row(38)
def test_a_checkpoint_without_a_tokenizer(tmp_path: Path) -> None:
    """Neither a service nor the hub is asked for what a folder does not have; ids do without it."""
    folder = make_checkpoint(tmp_path / "m", "llama")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(TinsmithError, match=r"the folder has no tokenizer\.json\. Put one there, or .* token ids"):
        get_tokenizer(str(folder))
    with ServiceClient() as service:
        training = service.create_lora_training_client(str(folder), rank=4)
        with pytest.raises(TinsmithError, match="has no tokenizer"):
            training.sample([[1, 2]], {"max_tokens": 3}).result()
        sampler = training.save_weights_and_get_sampling_client()
        answer = sampler.sample([1, 2], 1, SamplingParams(max_tokens=3, stop=[])).result()
        assert len(answer.sequences[0].tokens) == 3
