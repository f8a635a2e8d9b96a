"""Optimizers, which parameters they update how, learning-rate schedules."""
