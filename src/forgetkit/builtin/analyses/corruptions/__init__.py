"""The nineteen corruptions of CIFAR-10-C, made here or read from files."""
