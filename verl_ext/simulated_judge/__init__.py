"""A judge that is no model: hidden qualities, noise and faults, served like any other."""
