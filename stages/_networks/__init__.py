"""Loading checkpoints and running networks in batches; knows the contract and weights alone."""
