"""Deciding from measurements alone which variant ships."""
