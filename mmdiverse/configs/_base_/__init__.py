"""What the new-style configs inherit."""
