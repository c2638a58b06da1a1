"""Where trials run: in this process, in an isolated container, or on a Ray cluster.

`open.py` opens the one that a job's settings ask for. This package imports nothing by itself, so
that the workers of a cluster, which need one small module of it, stay small.
"""
