"""Where scoring runs: each engine maps one picklable task over chunks."""
