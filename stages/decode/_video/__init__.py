"""Reading of video files through PyAV: container, packet index, frames, gaps."""
