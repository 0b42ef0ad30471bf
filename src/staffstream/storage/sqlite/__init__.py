"""SQLite: the file, its connections, FTS5 and sqlite-vec, backups. Only `storage/engines.py` and commands about the
file itself import from here.
"""
