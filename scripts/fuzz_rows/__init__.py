"""What scripts/fuzz_inputs.py is made of: inputs to change, ways to change them, and what they are given to."""
