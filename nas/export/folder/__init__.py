"""Code that is copied into a standalone folder; it runs there, without this project."""
