"""Run trials on a Ray cluster (docs/scaling.md).

On the head: `executor.py` is a job's executor, and `cluster.py` the connection that the jobs of one
program share. On each node: `actor.py` starts `node.py`, the node runner, a process of its own that
does the work. Of each trial, `trial_task.py` is the Ray task that holds its resources. What travels
is in `messages.py` and `folders.py`.
"""
