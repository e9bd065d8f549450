"""What stands between a stage and the next: of data, of models, and of what is served."""
