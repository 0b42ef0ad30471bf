"""The command line, and serving the app on Hypercorn. Import from it: `main.main`, `main.run_locally`."""
