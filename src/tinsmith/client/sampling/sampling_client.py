"""`SamplingClient`: completions and logprobs of fixed weights."""

from __future__ import annotations

import binascii
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Literal, TypeVar

from tinsmith.client.checkpoints.saved_path import settled
from tinsmith.client.sampling.handles import SamplerHandle, first_seq_id
from tinsmith.client.sampling.opened_sampler import OpenedSampler, SamplePoster, SampleSpec
from tinsmith.client.sampling.prompts import parse_params
from tinsmith.client.tokenizer.tokenizer import Tokenizer
from tinsmith.client.tokenizer.tokenizer_sources import find_tokenizer
from tinsmith.client.transport.async_twins import awaiting
from tinsmith.client.transport.futures import APIFuture, Pending, share, state_of, wait_blocking
from tinsmith.client.transport.outcomes import OperationFuture, Outcome, peek
from tinsmith.client.transport.session import ClientSession
from tinsmith.types.errors import TinsmithError, invalid
from tinsmith.types.model_input import ModelInput
from tinsmith.types.outputs import SampleResponse
from tinsmith.types.params import SamplingParams
from tinsmith.types.requests import CreateSamplingSessionRequest
from tinsmith.types.responses import CreateSamplingSessionResponse, GetSamplerResponse
from tinsmith.types.tensor import TensorData

T = TypeVar("T")
SamplingClientKind = Literal["snapshot", "inflight"]


class SamplingClient(APIFuture["SamplingClient"]):
    """Samples from weights that do not change. Made by `ServiceClient.create_sampling_client` and others.

    It can be used at once; `await client` and `client.result()` give the client itself once the service has it ready.
    With a service at a URL it can be pickled: a copy in another process samples in the same session.

    The service keeps the weights while this client or a request of it is alive; `close()`, or dropping the client,
    lets go of them. Once the client was pickled or gave a handle, only `close()` or the end of the session does.
    """

    def __init__(
        self,
        session: ClientSession,
        opened: OperationFuture[OpenedSampler],
        *,
        first_seq_id: int = 0,
        shared: bool = False,
        record_stability_info: bool = False,
    ) -> None:
        self._session = session
        self._record_stability_info = record_stability_info
        self._poster = SamplePoster(session, opened, first_seq_id, shared=shared)
        self._ready: Future[SamplingClient] | None = None

    @classmethod
    def create(
        cls,
        session: ClientSession,
        *,
        model_path: str | None = None,
        base_model: str | None = None,
        record_stability_info: bool = False,
    ) -> SamplingClient:
        """Make a client of a base model or of saved weights.

        Raises:
            UserError: neither is given.
        """
        if model_path is None and base_model is None:
            raise invalid("create_sampling_client", "neither model_path nor base_model", "one of them")
        # The number is taken at the call, not when the request goes out, so that it follows the order of the calls.
        seq_id = next(session.sampling_session_seq_ids)
        opening = _open(session, seq_id, model_path, base_model)
        opened = session.connection.submit_operation(opening, "create_sampling_client")
        return cls(session, opened, record_stability_info=record_stability_info)

    def future(self) -> Future[SamplingClient]:
        """Return the `concurrent.futures.Future` of the client itself, once it is ready."""
        if self._ready is not None:
            return self._ready
        opened = self._poster.opened
        # Ready already: a future that is not kept, for the same reason as in `_when_ready`.
        if opened.done() and not self.failed:
            ready: Future[SamplingClient] = Future()
            ready.set_result(self)
            return ready
        ready = self._session.connection.submit_operation(self._when_ready(), opened.outcome.operation, opened.outcome)
        # It may be done by now, and its coroutine has cleared `_ready` before this line sets it.
        self._ready = None if ready.done() else ready
        return ready

    async def _when_ready(self) -> SamplingClient:
        await peek(self._poster.opened)
        # A client that held a future of itself would stay, and its weights at the service, until garbage is collected.
        self._ready = None
        return self

    def __repr__(self) -> str:
        opened, state = self._poster.opened, state_of(self._poster.opened)
        if state != "done":
            return f"SamplingClient({state})"
        sampler = opened.peek()
        weights = f", model_path={sampler.model_path!r}" if sampler.model_path else ""
        return f"SamplingClient(base_model={sampler.base_model!r}{weights}, id={sampler.sampling_session_id!r})"

    @property
    def failed(self) -> bool:
        """Whether the sampler could not be made."""
        opened = self._poster.opened
        return opened.done() and (opened.cancelled() or opened.outcome.reason is not None)

    # -- sampling -----------------------------------------------------------------------------------------------------

    def sample(
        self,
        prompt: ModelInput | Sequence[int],
        num_samples: int = 1,
        sampling_params: SamplingParams | Mapping[str, Any] | None = None,
        include_prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
        topk_sample_logprobs: int = 0,
        target_prompt_logprobs: TensorData | None = None,
        prompt_alt_tokens_k: int = 0,
        prompt_logprobs_last_n: int | None = None,
    ) -> APIFuture[SampleResponse]:
        """Sample completions of one prompt.

        Args:
            prompt: a `ModelInput` or token ids.
            num_samples: completions to draw.
            sampling_params: how; a dict of the same fields is accepted, None takes the defaults.
            include_prompt_logprobs: give the model's logprob of each prompt token.
            topk_prompt_logprobs: give the likeliest k tokens at each prompt position.
            topk_sample_logprobs: give the likeliest k tokens at each sampled position.
            target_prompt_logprobs: ids whose logprobs to give at each prompt position after the first: int64, shape
                (prompt length - 1, K), -1 for none.
            prompt_alt_tokens_k: draw so many alternative tokens at each prompt position after the first.
            prompt_logprobs_last_n: give prompt logprobs of the last n positions only.

        Returns:
            A future of the completions; cancelling it stops the sampling.

        Raises:
            UserError: an argument is out of range.
        """
        spec = SampleSpec(
            prompt=_token_ids(prompt),
            params=parse_params(sampling_params, None)[0],
            num_samples=num_samples,
            prompt_logprobs=include_prompt_logprobs,
            topk_prompt_logprobs=topk_prompt_logprobs,
            topk_sample_logprobs=topk_sample_logprobs,
            target_prompt_logprobs=target_prompt_logprobs,
            prompt_alt_tokens_k=prompt_alt_tokens_k,
            prompt_logprobs_last_n=prompt_logprobs_last_n,
            record_stability_info=self._record_stability_info,
        )
        _check_spec(spec)
        return Pending(self._submit(self._poster.sample(spec), "sample"))

    sample_async = awaiting(sample)

    def _submit(self, asking: Coroutine[Any, Any, T], operation: str) -> OperationFuture[T]:
        return self._session.connection.submit_operation(asking, operation, self._poster.opened.outcome)

    async def sample_spec(self, spec: SampleSpec) -> SampleResponse:
        """Send a request from a coroutine of the SDK's loop."""
        return await self._poster.sample(spec)

    def compute_logprobs(
        self, prompt: ModelInput | Sequence[int], prompt_logprobs_last_n: int | None = None
    ) -> APIFuture[list[float | None]]:
        """Compute the model's logprob of each prompt token; None at the first and where none was asked for."""
        spec = SampleSpec(
            prompt=_token_ids(prompt),
            params=SamplingParams(max_tokens=1),
            prompt_logprobs=True,
            prompt_logprobs_last_n=prompt_logprobs_last_n,
        )
        _check_spec(spec)
        return Pending(self._submit(self._logprobs(spec), "compute_logprobs"))

    async def _logprobs(self, spec: SampleSpec) -> list[float | None]:
        logprobs = (await self._poster.sample(spec)).prompt_logprobs
        if logprobs is None:
            raise TinsmithError("compute_logprobs: the service gave no prompt logprobs")
        return logprobs

    compute_logprobs_async = awaiting(compute_logprobs)

    # -- facts --------------------------------------------------------------------------------------------------------

    @property
    def sampler_id(self) -> str:
        """Id of the sampling session; waits until the service has it."""
        return wait_blocking(self._poster.opened).sampling_session_id

    def get_base_model(self) -> str:
        """Return the name of the base model; waits until the service has the sampler ready."""
        return wait_blocking(self._poster.opened).base_model

    async def get_base_model_async(self) -> str:
        """Return the name of the base model."""
        return (await share(self._poster.opened)).base_model

    def get_tokenizer(self) -> Tokenizer:
        """Return the tokenizer of the base model."""
        self.get_base_model()  # raised here, an error has been seen
        return wait_blocking(self._session.submit(self.tokenizer()))

    async def tokenizer(self) -> Tokenizer:
        """Return the tokenizer, from a coroutine of the SDK's loop."""
        return await find_tokenizer((await peek(self._poster.opened)).base_model, self._session.connection)

    # -- end ----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Wait for what was asked of it and let the service free its weights; copies in other processes end, too."""
        wait_blocking(self._session.submit(self._poster.close()))

    # -- copies in other processes ------------------------------------------------------------------------------------

    def get_sampler_handle(self) -> str:
        """Return a text from which `from_sampler_handle` makes this client in another process; it holds no key.

        Raises:
            TinsmithError: the service runs inside this process, where no other can reach it.
        """
        return self._handle().encode()

    @staticmethod
    def from_sampler_handle(handle: str, *, api_key: str | None = None) -> SamplingClient:
        """Make a client of the sampler that a handle names; it samples in the same session.

        Args:
            handle: what `get_sampler_handle` gave, in this process or another.
            api_key: None takes the environment's.

        Raises:
            UserError: it is no handle.
        """
        try:
            return _restore(SamplerHandle.decode(handle), api_key)
        except (binascii.Error, ValueError, KeyError, TypeError) as error:
            raise invalid("handle", handle, "what get_sampler_handle() returned") from error

    def _handle(self) -> SamplerHandle:
        connection = self._session.connection
        base_url = connection.address.base_url
        if base_url is None:
            raise TinsmithError("a SamplingClient of the embedded service cannot leave its process: use a served one")
        sampler = wait_blocking(self._poster.opened)
        config = wait_blocking(self._session.submit(connection.config()))
        # From here on others may sample from it: dropping this client no longer ends the sampler, nor its session.
        self._session.keep()
        self._poster.keep()
        return SamplerHandle(
            session_id=self._session.id_blocking(),
            sampling_session_id=sampler.sampling_session_id,
            base_model=sampler.base_model,
            base_url=base_url,
            headers=connection.headers,
            config=config.model_dump(mode="json"),
            record_stability_info=self._record_stability_info,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickle goes to a process of one's own, so it may hold the key, which a handle may not.
        return (_restore, (self._handle(), self._session.connection.settings.api_key))


def refuse_retry_config(retry_config: object) -> None:
    """Refuse an option that is not honoured.

    Raises:
        UserError: it is given.
    """
    if retry_config is not None:
        raise invalid("retry_config", retry_config, "None: the client retries by itself (TINSMITH_CLIENT_RETRY_S)")


def _token_ids(prompt: ModelInput | Sequence[int]) -> list[int]:
    """Return the ids of a prompt; this client takes no text, as it returns none.

    Raises:
        UserError: it is a text, or a list of something else than ids.
    """
    if isinstance(prompt, ModelInput):
        return prompt.to_ints()
    if isinstance(prompt, str):
        expected = "token ids or a ModelInput: client.get_tokenizer().encode(text), or TrainingClient.sample for texts"
        raise invalid("sample.prompt", prompt, expected)
    ids = list(prompt)
    for token in ids:
        # NumPy's whole numbers are ids, too; a bool is a mask that was passed by mistake.
        if isinstance(token, bool) or not hasattr(token, "__index__"):
            raise invalid("sample.prompt", prompt, "token ids or a ModelInput")
    return [int(token) for token in ids]


def _check_spec(spec: SampleSpec) -> None:
    target = spec.target_prompt_logprobs
    if target is not None and (target.dtype != "int64" or len(target.shape) != 2):
        raise invalid("target_prompt_logprobs", f"{target.dtype} {target.shape}", "int64 of two dimensions")
    if spec.num_samples < 1:
        raise invalid("num_samples", spec.num_samples, "at least 1")
    if spec.prompt_alt_tokens_k < 0:
        raise invalid("prompt_alt_tokens_k", spec.prompt_alt_tokens_k, "0 or more")
    if spec.prompt_logprobs_last_n is not None:
        if spec.prompt_logprobs_last_n < 1:
            raise invalid("prompt_logprobs_last_n", spec.prompt_logprobs_last_n, "at least 1")
        if not spec.prompt_logprobs:
            raise invalid("prompt_logprobs_last_n", "given", "include_prompt_logprobs=True with it")


async def _open(session: ClientSession, seq_id: int, model_path: str | None, base_model: str | None) -> OpenedSampler:
    if model_path is not None:
        model_path = await settled(model_path)
    request = CreateSamplingSessionRequest(
        session_id=await session.id(), sampling_session_seq_id=seq_id, model_path=model_path, base_model=base_model
    )
    connection = session.connection
    answer = await connection.call(
        CreateSamplingSessionResponse, "POST", "create_sampling_session", json=request.wire()
    )
    # Saved weights know their base; the client has to, for the tokenizer.
    if base_model is None:
        path = f"samplers/{answer.sampling_session_id}"
        base_model = (await connection.call(GetSamplerResponse, "GET", path)).base_model
    return OpenedSampler(answer.sampling_session_id, base_model, model_path)


def _restore(handle: SamplerHandle, api_key: str | None) -> SamplingClient:
    opened = OperationFuture[OpenedSampler](Outcome("from_sampler_handle"))
    opened.set_result(OpenedSampler(handle.sampling_session_id, handle.base_model))
    return SamplingClient(
        handle.join(api_key),
        opened,
        first_seq_id=first_seq_id(),
        shared=True,
        record_stability_info=handle.record_stability_info,
    )
