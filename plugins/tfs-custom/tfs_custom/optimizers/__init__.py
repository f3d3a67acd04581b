"""Two optimizers, their updates written out."""
