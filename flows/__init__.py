"""What happens and in what order: one file a flow, and the `ingot` command."""
