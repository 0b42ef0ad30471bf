"""How fast it is, measured side by side with what else one could use. `bench/README.md` says how to read it."""
