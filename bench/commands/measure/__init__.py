"""Commands that measure models and images."""
