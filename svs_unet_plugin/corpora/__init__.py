"""Songs in: MUSDB18, MIR-1K, synthetic songs, and their preparation at the network's sample rate."""
