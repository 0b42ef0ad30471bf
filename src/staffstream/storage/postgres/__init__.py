"""PostgreSQL: connections through psycopg, the schema translated on load, words by GIN, vectors compared in memory.

Only `storage/engines.py` imports from here, when a database's address asks for it: psycopg is an extra.
"""
