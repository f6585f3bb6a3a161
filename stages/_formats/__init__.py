"""Readers and writers of file formats that several steps share: PLY, Gaussians, packed masks."""
