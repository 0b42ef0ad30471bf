"""The tests; a package so that the scripted far end can be run on its own: python -m tests.far_end."""
