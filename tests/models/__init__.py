"""The embedded model: its files, its tokenizer, and the mixture it was made from."""
