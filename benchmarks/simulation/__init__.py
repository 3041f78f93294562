"""The service's scheduler under 1,000 tenants, in simulated time: the same code, an engine that only takes time.

`__main__` is the command, `world` holds clock, host and disk, `engine` and `sampler` what takes time, `costs` how much.
`tenants` are the users, `kinds` what each kind of them does, `ledger` what is noted of it, `figures` what that comes
to, `picture` how it looks.
"""
