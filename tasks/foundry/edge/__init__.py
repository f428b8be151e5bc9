"""What Foundry Local's web service does with requests at and beyond the edges, on one variant."""
