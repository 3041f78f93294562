"""What one tenant feels beside another's flood.

`__main__` is the command, `tenants` what the two of them do, `verdict` what the rule says about it.
"""
