"""Songs synthesised by rule from a seed: the corpus, one song, its voice, and their oscillators."""
