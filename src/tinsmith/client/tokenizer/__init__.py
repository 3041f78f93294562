"""Text and token ids without `transformers`: `tokenizer`, where it comes from (`tokenizer_sources`), `chat_template`.

May import `transport/`.
"""
