"""Where engines run: on a thread of this process, or in a child process.

`in_process.InProcessLink` and `child.ChildLink` implement `EngineLink`. `engine_main` is what the child runs, `frames`
how both ends speak, `model_sources` where models come from, `loading` how engines are made, `backoff` how long to wait
for the next life, `child_environment` what a child is told and what not, `openmp` how its threads wait for each other,
`allocator` where its tensors get their memory.
"""
