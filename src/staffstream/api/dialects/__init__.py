"""The same runs, conversations and memory in the words of clients that exist: one module a dialect. Each turns its
request into a RunRequest and the run's log into its own frames; none makes a reply in a way of its own.
"""
