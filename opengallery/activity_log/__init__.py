"""The activity log: who did what to which resource, when, and how it ended. Only appended to.

`events` is the table and its rows, `recorder` takes events in, `search` finds them, `rotation` forgets old ones.
"""
