"""AdamW and SGD, with their update formulas written out."""
