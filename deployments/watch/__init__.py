"""Telling that a checkpoint has landed."""
