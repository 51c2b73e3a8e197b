"""Songs to train on: made up, or prepared from MUSDB18."""
