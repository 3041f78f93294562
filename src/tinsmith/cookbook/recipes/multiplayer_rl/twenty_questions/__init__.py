"""Twenty questions: `things` is a closed world, `questions` reads what is asked for, `answerers` say yes or no.

`twenty_questions_env` is the environment, `askers` has what simple ways of asking come to.
"""
