"""Games of several turns: guess the number, twenty questions, and tic-tac-toe against oneself.

`train` runs it; `config` holds its settings; `multiplayer_rl_dataset` has what is played, and what simple players come
to in it; `multiplayer_rl_env` is what the games share. Each game has a folder of its own.
"""
