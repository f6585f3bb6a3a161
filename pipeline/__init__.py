"""reel3d turns video into what happened in it and the place it happened in."""
