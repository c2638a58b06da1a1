"""The isolated runner's container, whose only way out is the relay's socket.

The outer side is `runner.executors.isolated`. The inner side is inside.py, which has a Docker
engine of its own and confines each agent (confinement.py).
"""
