"""Networks: images in [0, 1] of shape (batch, channel, height, width) to logits (batch, class)."""
