"""The built-in components, one per file, registered through the same hooks as those of plugins."""
