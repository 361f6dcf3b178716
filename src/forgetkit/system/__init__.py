"""What the system is asked for: when to stop, how much memory there is, whether a file is one; torch's settings."""
