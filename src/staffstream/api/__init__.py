"""HTTP: one module a resource, one declaration an endpoint (route, shapes, errors). It reads requests, calls the rooms
below and writes answers; it holds no SQL and makes no reply itself. Import from it: `routes.ROUTES`, and what `app.py`
puts together (`auth`, `problems`, `host_check`, `rate_limits`).
"""
