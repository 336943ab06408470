"""The CDNOW data, its features and its training script."""
