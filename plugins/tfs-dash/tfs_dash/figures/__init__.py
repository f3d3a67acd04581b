"""Figures of runs: Plotly figures as plain dictionaries with NumPy arrays, without the theme (`style.TEMPLATES`)."""
