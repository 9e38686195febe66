"""What hooks do: they keep sessions from each other's files and branches."""
