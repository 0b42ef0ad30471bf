"""Rows in and out: one module an entity. Functions take a `Connection` and are the same for every engine; what differs
between engines is in `sqlite/` and `postgres/`. Only this room has SQL or a database driver.
"""
