"""The run: Algorithm 1, its state, its context, checkpoints, the dry run."""
