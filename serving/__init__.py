"""Serving a pushed model: a typed client and a local server, which meet on the wire alone.

Everything here knows the signatures of a SavedModel and nothing of the model behind them.
"""
