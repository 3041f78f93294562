"""The pages: snippets run, links are there, the picture of the rooms is what the code says."""
