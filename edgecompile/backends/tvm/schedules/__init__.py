"""How loops are tiled, vectorized and shared by threads, as rules."""
