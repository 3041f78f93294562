"""Tic-tac-toe: `board` has the rules, `minimax` exact play, `odds` what random moves come to against it.

A `match` is played by two: a `seat` is an environment, a script plays by itself; `matches` makes groups of them.
"""
