"""Saving a session: what it comes to, and carrying it out against what others do."""
