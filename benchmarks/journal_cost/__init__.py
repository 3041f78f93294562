"""What journal and recovery points cost a training script.

`__main__` is the command, `sides` are the services that take turns, `figures` what their times come to.
"""
