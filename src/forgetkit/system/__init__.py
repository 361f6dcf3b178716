"""What the system is asked for: when to stop, how much memory there is and was, whether a file is one."""
