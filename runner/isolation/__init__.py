"""The container of the isolated runner: no way out but the relay's socket.

The outer side is `runner.executors.isolated`. The inner side is inside.py, with an engine of its own;
confinement.py confines each agent there.
"""
