"""Wires that do more than carry: delays, losses and the log of every frame."""
