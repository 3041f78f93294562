"""The formats that are written out, one file per family, each held against its published template by the tests.

`chatml` is what Qwen's stand on, `llama3` what the later Llamas do; `typescript` shows the tools of gpt-oss.
"""
