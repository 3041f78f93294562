"""The output projection with its adapters: from hidden states to `logprobs`, and the gradient of logprobs back."""
