"""What happened: `Frames` and `Motion` to timed `Actions`."""
