"""Channels, heads and units that hang together, what they are worth, and a model without them."""
