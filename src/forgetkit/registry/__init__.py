"""Hook specs, entry points, SPECs, the registry of components, and the scaffold of a plugin."""
