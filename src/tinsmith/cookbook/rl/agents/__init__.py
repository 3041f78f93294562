"""Agent programs as environments: they call an OpenAI-shaped client, and the policy that is trained answers.

`agent_env` is the environment, `chat_client` the client, `chat_objects` what it answers with; `sampled_turns` finds
what was sampled in the conversations that an agent sends back, so that its ids stay.
"""
