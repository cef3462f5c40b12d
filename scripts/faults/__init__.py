"""What `scripts/torture.py` does to runs and to checkpoints."""
