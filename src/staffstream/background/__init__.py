"""What runs beside the requests: the job worker, recovery after crashes, maintenance, webhooks, and streams of
runs for subscribers. Import from it: the class or context manager that each module opens with.
"""
