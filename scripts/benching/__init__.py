"""The parts of `scripts/bench.py`: what is compared, with whom, how it is timed and shown."""
