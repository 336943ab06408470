"""What people do by day: look, try, decide, replay, prune."""
