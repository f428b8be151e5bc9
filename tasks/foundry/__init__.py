"""Foundry Local: examined in a staging index, registered in production, chatted with."""
