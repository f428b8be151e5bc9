"""Generating for a long time, to show whether memory, threads or speed drift."""
