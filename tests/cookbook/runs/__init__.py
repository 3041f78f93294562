"""The skeleton of a run: command, folder, JSONL, resume, sinks, transcripts, watches."""
