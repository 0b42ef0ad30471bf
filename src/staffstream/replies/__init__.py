"""One reply while it is made: the registry of active runs, the run log, the context and its sources, and how runs
end. `pipeline.py` puts these together; nothing here knows HTTP.
"""
