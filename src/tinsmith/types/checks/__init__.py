"""Checks of what comes off the wire, shared by the SDK, the service's door and the engine.

`validation` checks requests, `pair_checks` preference pairs, `json_numbers` what JSON cannot say, `wire_scan` how many
parts a batch has before it is parsed.
"""
