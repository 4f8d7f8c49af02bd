"""Bounds of what a network computes within a ball, from its operations.

A model is read as a graph of affine maps and functions of single numbers (:mod:`.reading`); a ball around an
image (:mod:`.ball`) is followed through it (:mod:`.propagation`); the largest ball in which the label's logit
provably stays the largest is the radius (:mod:`.search`).
"""
