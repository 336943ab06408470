"""The verbs of a night: freeze, score, judge, publish."""
