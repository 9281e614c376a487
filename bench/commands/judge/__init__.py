"""Commands that compare with the published numbers."""
