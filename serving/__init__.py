"""Serving a pushed model: a typed client, a local server and the deployment of the real one.

Everything here knows the signatures of a SavedModel and nothing of the model behind them.
"""
