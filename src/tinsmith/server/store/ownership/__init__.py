"""Which service a database and a blob store belong to, wherever it runs: a mark that it keeps fresh.

`marks` says who holds something and whether that one is alive, `places` are where marks lie, `ownership` takes both for
a service, keeps them, and notices when another service has taken them.
"""
