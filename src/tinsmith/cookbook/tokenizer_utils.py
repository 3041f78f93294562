"""The SDK's tokenizers, under the name that the cookbook of the hosted service has for them."""

from tinsmith import get_tokenizer

__all__ = ["get_tokenizer"]
