"""Rigid transforms, projection, boxes and pure rotation; knows the contract alone."""
