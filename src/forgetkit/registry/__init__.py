"""What is on offer: hook specs, entry points, SPECs, the registry, the scaffold."""
