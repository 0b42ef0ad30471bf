"""The tests; a package so that the scripted provider can be run on its own: python -m tests.tools.provider."""
