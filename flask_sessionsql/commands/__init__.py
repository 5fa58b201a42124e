"""``flask sessions``: what an operator does with the sessions of an application."""
