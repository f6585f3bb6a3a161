"""Reading of live cameras: connection, its supervision, clock, and dropping the oldest frames."""
