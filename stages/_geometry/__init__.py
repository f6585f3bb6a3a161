"""Rigid transforms, projection, boxes and pure rotation; depends only on the contract."""
