"""What both hosts train with: losses, settings, and the history of a run."""
