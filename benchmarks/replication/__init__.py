"""`make bench`: this daemon, any other with the same flags, and Redis' own replication, measured side by side.

In: installed servers. Out: every goal with what was measured, on the terminal and in docs/performance.md.
Left to others: the servers (`testbed`).
"""
