"""The 19 corruptions of CIFAR-10-C: a table of them, and samples that are corrupted here or read from files."""
