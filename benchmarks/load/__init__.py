"""A service under the load of many sessions: how long small requests take, and what memory does.

`__main__` is the command, `users` what the sessions do, `http_client` how they ask, `figures` what is measured of it,
`processes` what the service's processes take.
"""
