"""The optimizer `muon`: orthogonalized updates for hidden matrices, AdamW for all other parameters."""
